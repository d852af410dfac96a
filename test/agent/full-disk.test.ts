import { execFileSync } from 'node:child_process'
import { closeSync, fsyncSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { LifecycleMethods } from '../../proto/gen/lifecycle.ts'
import { buildAll } from '../../build.mjs'
import { makeBundle } from '../fixtures/bundles.ts'
import { COUNTER_METHODS, payloadOf } from '../fixtures/services/counter/bundle.ts'
import { ask, connect, freePort, isServing, makeLab, send, startAgent } from './agent-process.ts'

const skip = process.getuid?.() === 0 ? false : 'not root: no small file system can be mounted'

/** Leaves not one byte free. */
function fill(folder: string): string {
  const file = join(folder, 'ballast')
  const handle = openSync(file, 'w')
  for (let bytes = 64 * 1024; bytes >= 1; ) {
    try {
      writeSync(handle, Buffer.alloc(bytes))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      bytes = Math.floor(bytes / 2)
    }
  }
  fsyncSync(handle)
  closeSync(handle)
  return file
}

// With trust anchors the metadata of the order is what there is no room for; without them the preflight is first to look.
for (const [trust, code] of [
  [false, 'PREFLIGHT_REFUSED'],
  [true, 'STORE_FULL'],
] as const) {
  const title = `a full disk refuses an upgrade before anything is touched, and the service that runs does not notice (${code})`
  t.test(title, { skip, timeout: 250_000 }, async (t) => {
    await buildAll()
    const lab = await makeLab([], { trust })
    t.teardown(async () => await lab.close())
    const stateDir = join(lab.directory, 'small')
    mkdirSync(stateDir)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', stateDir])
    // Teardowns run from the last to the first: the agent goes before its disk.
    t.teardown(() => void execFileSync('umount', [stateDir]))
    const agent = await startAgent(lab, 'full', await freePort(), { stateDir })
    t.teardown(async () => await agent.kill())
    await agent.line(isServing)
    const text = Buffer.from(await payloadOf('test/fixtures/services/counter/service.ts')).toString()
    const bundle = (version: string) =>
      makeBundle(
        lab.key,
        { name: 'counter', version, methods: COUNTER_METHODS, capabilities: ['proc'], snapshot: { writes: [1], reads: [1] }, heapMbMax: 32 },
        text,
      )
    const order = (version: string) => ({ service: 'counter', version, bakeMs: 0, confirmTimeoutMs: 60_000, reason: 'test' })
    const client = await connect(lab, agent.port)
    t.teardown(() => client.close())
    const { id } = await send(client, 'Install', order('1.0.0'), bundle('1.0.0'))
    const fresh = await connect(lab, agent.port)
    t.teardown(() => fresh.close())
    await fresh.unary(LifecycleMethods.Confirm, { changeId: id })
    t.match(await ask(lab, client, '/test.Counter/Next'), /1$/)

    const ballast = fill(stateDir)
    await t.rejects(send(client, 'Upgrade', order('1.1.0'), bundle('1.1.0')), { code, status: 8 })
    t.match(await ask(lab, client, '/test.Counter/Next'), /2$/, 'it goes on from its own state')
    t.match((await client.unary(LifecycleMethods.Get, { service: 'counter' })).version, '1.0.0')

    rmSync(ballast)
    t.match(await send(client, 'Upgrade', order('1.1.0'), bundle('1.1.0')), { from: '1.0.0', to: '1.1.0' }, 'with room again the same order succeeds')
    t.match(await ask(lab, client, '/test.Counter/Next'), /3$/)
  })
}
