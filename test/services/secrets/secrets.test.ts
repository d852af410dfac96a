import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type RotateIdentityRequestInit, SecretsMethods } from '../../../proto/gen/secrets.ts'
import { conformance, runService, type ServiceManifest } from '../../../services/sdk/testing.ts'
import { create } from '../../../services/secrets/service.ts'
import { fakes } from '../fakes.ts'

const manifest: ServiceManifest = JSON.parse(readFileSync(join(import.meta.dirname, '../../../services/secrets/manifest.json'), 'utf8'))
const { RotateIdentity, Status } = SecretsMethods
const begin = { begin: { reason: 'test' } }

const run = async () => {
  const machine = fakes()
  return { machine, one: await runService({ create }, { manifest, config: {}, capabilities: machine.capabilities }) }
}

t.test('secrets is a service', async (t) => {
  conformance(t, { create }, { manifest, config: {}, capabilities: () => fakes().capabilities })
})

t.test('a rotation asks for a signature, installs what was signed, and names the change', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  const answers = []
  for await (const answer of one.bidi(RotateIdentity, [begin, { certificateChainPem: 'CHAIN' }])) answers.push(answer)
  t.match(answers, [{ csrPem: 'CSR' }, { installed: { changeId: 'c-q1', serial: '02', notAfterMs: 99 } }])
  t.match(machine.calls.find(({ operation }) => operation === 'keystore.install')?.input, {
    ...{ requestId: 'q1', chainPem: 'CHAIN', confirmTimeoutMs: 60_000, reason: 'test', author: 'spiffe://lab/operator/test' },
  })
  t.match(await one.unary(Status, {}), { serial: '02', provisional: true, changeId: 'c-q1' })
  await t.rejects(one.bidi(RotateIdentity, [begin]).next(), { code: 'SWAP_IN_PROGRESS' }, 'a further one waits for the confirm')
})

t.test('a stream that ends early or out of order installs nothing, and the next one is free to begin', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  const streams: RotateIdentityRequestInit[][] = [[], [{ certificateChainPem: 'CHAIN' }], [begin], [begin, begin], [{ begin: { confirmTimeoutMs: 1 } }]]
  for (const requests of streams) {
    await t.rejects(
      async () => {
        for await (const answer of one.bidi(RotateIdentity, requests)) t.notOk(answer.installed)
      },
      { code: 'ARGUMENT_INVALID' },
    )
  }
  t.notOk(machine.calls.some(({ operation }) => operation === 'keystore.install'))
  for await (const { csrPem } of one.bidi(RotateIdentity, [begin])) {
    t.equal(csrPem, 'CSR')
    break
  }
})

t.test('two rotations at once: the second is refused and does not take the key of the first', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  let send: (chain: string) => void = () => {}
  const chain = new Promise<string>((resolve) => {
    send = resolve
  })
  const first = one.bidi(
    RotateIdentity,
    (async function* () {
      yield begin
      yield { certificateChainPem: await chain }
    })(),
  )
  t.match(await first.next(), { value: { csrPem: 'CSR' } })
  await t.rejects(one.bidi(RotateIdentity, [begin]).next(), { code: 'SWAP_IN_PROGRESS' })
  send('CHAIN')
  t.match(await first.next(), { value: { installed: { changeId: 'c-q1' } } })
  t.equal(machine.calls.filter(({ operation }) => operation === 'keystore.request').length, 1)
})

t.test('a keystore that fails makes it degraded until it answers again', async (t) => {
  const { machine, one } = await run()
  t.teardown(one.stop)
  machine.fails.add('keystore.status')
  await t.rejects(one.unary(Status, {}), { code: 'DRIVER_FAILED' })
  t.match(one.health(), { status: 'degraded', evidence: { keystoreAnswers: 0 } })
  machine.fails.clear()
  await one.unary(Status, {})
  t.equal(one.health().status, 'healthy')
})
