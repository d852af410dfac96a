import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { takeLock } from '../../../agent/boot/lock.ts'

const STARTER = `
const { takeLock } = await import(process.argv[1])
process.stdin.once('data', async () => {
  const letGo = await takeLock(process.argv[2]).then((letGo) => (console.log('has it'), letGo), (error) => console.log(error.code))
  if (!letGo) process.exit(0)
  process.stdin.once('data', async () => { await letGo(); process.exit(0) })
})
console.log('waits')`

async function directory(t: Test): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), 'obx-lock-'))
  t.teardown(async () => await rm(made, { recursive: true, force: true }))
  return made
}

/** A process that takes the lock when it is told to. */
async function starter(t: Test, stateDir: string) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', STARTER, join(import.meta.dirname, '../../../agent/boot/lock.ts'), stateDir], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  await lines.next()
  return {
    child,
    go: async () => {
      child.stdin.write('go\n')
      return (await lines.next()).value as string
    },
  }
}

t.test('of three agents that start at once beside the lock of a dead one, exactly one has it; again and again', async (t) => {
  const stateDir = await directory(t)
  for (let round = 0; round < 8; round++) {
    await writeFile(join(stateDir, 'lock'), round % 2 ? `${process.pid} 1 another-boot` : 'nonsense')
    const starters = await Promise.all([1, 2, 3].map(async () => await starter(t, stateDir)))
    const said = await Promise.all(starters.map(async ({ go }) => await go()))
    t.same(said.toSorted(), ['HOME_IN_USE', 'HOME_IN_USE', 'has it'], `round ${round}`)
    t.match(await readFile(join(stateDir, 'lock'), 'utf8'), new RegExp(`^${starters[said.indexOf('has it')]?.child.pid} `), 'and the lock names it')
    for (const { child } of starters) {
      const gone = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined
      child.kill('SIGKILL')
      await gone
    }
    t.same(
      (await readdir(stateDir)).filter((name) => name !== 'lock'),
      [],
      'nothing else is left',
    )
  }
})

t.test('a lock is let go by its owner alone, and then free for the next', async (t) => {
  const stateDir = await directory(t)
  const letGo = await takeLock(stateDir)
  await t.rejects(takeLock(stateDir), { code: 'HOME_IN_USE', message: new RegExp(`process ${process.pid}`) })
  await letGo()
  const again = await takeLock(stateDir)
  await letGo()
  await t.rejects(takeLock(stateDir), { code: 'HOME_IN_USE' }, 'the first owner lets nothing go any more')
  await again()
  t.same(await readdir(stateDir), [])
})

t.test('a crash in the middle of taking over is taken over as well', async (t) => {
  const stateDir = await directory(t)
  await writeFile(join(stateDir, 'lock'), '999999 1 boot')
  await writeFile(join(stateDir, 'lock.stale'), '999998 1 boot')
  const letGo = await takeLock(stateDir)
  await letGo()
  t.same(await readdir(stateDir), [])
})

t.test('crashes on crashes, deeper than can be taken over, are told at once and by name', async (t) => {
  const stateDir = await directory(t)
  const names = ['lock', 'lock.stale', 'lock.stale.stale', 'lock.stale.stale.stale']
  for (const name of names) await writeFile(join(stateDir, name), '999999 1 boot')
  await t.rejects(takeLock(stateDir), { code: 'HOME_IN_USE', message: /lock\.stale\.stale\.stale is left over from a crash; remove it/ })
  t.same((await readdir(stateDir)).toSorted(), names, 'nothing is added, nothing is taken')
  await rm(join(stateDir, names.at(-1) as string))
  const letGo = await takeLock(stateDir)
  await letGo()
  t.same(await readdir(stateDir), [], 'and then it goes on')
})
