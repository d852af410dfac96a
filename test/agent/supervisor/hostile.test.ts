import { buildSync } from 'esbuild'
import t from 'tap'
import type { VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { createSupervisor } from '../../../agent/supervisor/supervisor.ts'
import { WIRE_LIMITS } from '../../../services/sdk/wire.ts'
import { counterBundle } from '../../fixtures/services/counter/bundle.ts'
import { ask, until } from './harness.ts'

/** A worker script that answers controls as it should and calls as `onOpen` says: what a service could do that got hold of the port. */
function hostile(onOpen: string): string {
  const contents = `
    import { pack, unpack } from './packing.ts'
    const { workerData } = require('node:worker_threads')
    const { port } = workerData
    const send = (...messages) => port.postMessage(pack(messages, []))
    port.on('message', (batch) => {
      for (const message of unpack(batch, true)) {
        if (message.type === 'control') send({ type: 'done', id: message.id, value: { status: 'healthy', evidence: {} } })
        if (message.type === 'open') { ${onOpen} }
      }
    })`
  const stdin = { contents, resolveDir: `${import.meta.dirname}/../../../services/sdk` }
  return buildSync({ stdin, bundle: true, write: false, format: 'cjs', platform: 'node' }).outputFiles[0]?.text ?? ''
}

/** A call that a service makes of another. */
const channelOpen = (metadata: object) => JSON.stringify({ type: 'channelOpen', channel: 1, method: '/test.Counter/Next', kind: 'unary', metadata })

async function running(t: import('tap').Test, onOpen: string, bundle: VerifiedBundle) {
  const asked: string[] = []
  const logged: { message: string; fields: Record<string, unknown> }[] = []
  const supervisor = createSupervisor(
    {
      capability: async (_, capability, operation) => void asked.push(`${capability}.${operation}`),
      log: (_, __, message, fields) => logged.push({ message, fields }),
      methodsChanged: () => {},
    },
    { hostText: hostile(onOpen), limits: { backoffFirstMs: 1 } },
  )
  t.teardown(() => supervisor.close())
  await supervisor.install(bundle, {})
  await supervisor.commit('counter')
  return { supervisor, asked, logged }
}

for (const [what, onOpen] of Object.entries({
  'a message that is none': `send({ type: 'nonsense' })`,
  'something else than a batch': `port.postMessage('text')`,
  'a list that is cut off': `port.postMessage({ list: ['end'] })`,
  'a payload that is not there': `port.postMessage({ list: ['data', message.call, 1_000_000], bytes: new Uint8Array(8) })`,
  'metadata of its own call that only the agent may say': `send(${channelOpen({ 'offbox-call-depth': '0' })}, { type: 'end', call: message.call })`,
  'metadata of its own call with a key that is none': `send(${channelOpen({ 'a\nb': '1' })}, { type: 'end', call: message.call })`,
  'a stream message for a unary call': `send({ type: 'data', call: message.call, bytes: new Uint8Array(1) })`,
})) {
  t.test(`a worker that sends ${what} is ended and started anew`, async (t) => {
    const { supervisor } = await running(t, onOpen, await counterBundle('1.0.0'))
    t.match(await ask(supervisor, 'Next'), { error: 'SERVICE_CRASHED', message: /protocol/ })
    await until('the next start', () => supervisor.get('counter')?.starts === 2)
  })
}

t.test('a capability that the manifest does not name is refused, however it is asked for', async (t) => {
  const onOpen = `
    send({ type: 'capability', id: 1, capability: 'keystore', operation: 'request', input: {} })
    port.on('message', (batch) => {
      for (const answer of unpack(batch, true)) if (answer.type === 'capabilityResult') send({ type: 'end', call: message.call, error: answer.error })
    })`
  const { supervisor, asked } = await running(t, onOpen, await counterBundle('1.0.0'))
  t.match(await ask(supervisor, 'Next'), { error: 'CAPABILITY_DENIED' })
  t.same(asked, [])
})

t.test('answers to calls that nobody made are ignored', async (t) => {
  const onOpen = `send({ type: 'end', call: 999 }, { type: 'cancelled', call: 998 }, { type: 'done', id: 997 }, { type: 'end', call: message.call, bytes: new Uint8Array([52]) })`
  const { supervisor } = await running(t, onOpen, await counterBundle('1.0.0'))
  t.same(await ask(supervisor, 'Next'), { text: '4' })
})

t.test('what a worker logs is cut to what a line may hold, whatever it sends', async (t) => {
  const onOpen = `
    const log = (message, fields) => send({ type: 'log', level: 'info', message, fields })
    log('long', { text: 'x'.repeat(1_000_000) })
    log('many', Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => ['key' + index, index])))
    log('odd', { number: 1n })
    log('plain', { text: 'y', nested: { one: [1, null] } })
    send({ type: 'end', call: message.call, bytes: new Uint8Array(0) })`
  const { supervisor, logged } = await running(t, onOpen, await counterBundle('1.0.0'))
  t.match(await ask(supervisor, 'Next'), { text: '' })
  const lines = ['long', 'many', 'odd', 'plain'].map((one) => logged.find(({ message }) => message === one))
  for (const line of lines) t.ok(line && JSON.stringify(line.fields).length < 2 * WIRE_LIMITS.logFieldsCharsMax)
  t.match(lines[0]?.fields, { truncated: /^\{"text":"xxx/ })
  t.match(lines[3]?.fields, { text: 'y', nested: { one: [1, null] }, truncated: undefined })
})
