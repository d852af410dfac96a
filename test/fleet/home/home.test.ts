import { execFileSync, spawn } from 'node:child_process'
import { chmod, readdir, readFile, stat, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { cleanTemporaries, readIfThere, writeAtomic } from '../../../fleet/home/atomic.ts'
import { checkHome, Home } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { readSigningKey } from '../../../fleet/home/keys.ts'
import { lockHome } from '../../../fleet/home/lock.ts'

const fresh = async (t: { testdir(): string }, fleet = 'lab') => {
  const home = new Home(join(t.testdir(), 'home'))
  await initHome(home.path, { fleet, nowMs: Date.now() })
  return home
}

t.test('init makes a closed home, and a second init changes no byte of it', async (t) => {
  const home = await fresh(t)
  const files = [home.caKey, home.caCertificate, home.key('controller'), home.key('operator'), home.anchors, home.config]
  const before = await Promise.all(files.map(async (file) => await readFile(file, 'utf8')))
  for (const path of [home.path, home.keys]) t.equal((await stat(path)).mode & 0o777, 0o700, path)
  for (const path of [home.caKey, home.key('controller'), home.key('operator')]) t.equal((await stat(path)).mode & 0o777, 0o600, path)
  const again = await initHome(home.path, { nowMs: Date.now() })
  t.same(again.made, [])
  t.equal(again.fleet, 'lab')
  t.same(await Promise.all(files.map(async (file) => await readFile(file, 'utf8'))), before)
})

t.test('init completes what an interrupted init left, and keeps the keys it finds', async (t) => {
  const home = await fresh(t)
  const caKey = await readFile(home.caKey, 'utf8')
  const key = (await readSigningKey(home)).keyId
  await unlink(home.certificate('operator'))
  await unlink(home.anchors)
  const report = await initHome(home.path, { fleet: 'lab', nowMs: 5 })
  t.ok(report.made.includes(home.anchors))
  t.equal(await readFile(home.caKey, 'utf8'), caKey)
  t.same(report.bundleKeyIds, [key])
  t.ok((await readdir(join(home.path, 'certs'))).includes('operator.key.unused-5'), 'the orphan is set aside, not overwritten')
})

t.test('init refuses another fleet, a bad name, and a certificate whose key is lost', async (t) => {
  const home = await fresh(t)
  await t.rejects(initHome(home.path, { fleet: 'other', nowMs: 1 }), { code: 'HOME_INVALID', message: /belongs to the fleet lab/ })
  await t.rejects(initHome(home.path, { fleet: '../x', nowMs: 1 }), { code: 'ARGUMENT_INVALID' })
  await unlink(home.caKey)
  await t.rejects(initHome(home.path, { nowMs: 1 }), { code: 'HOME_INVALID', message: /without its key/ })
})

t.test('a home that others can read is refused with the command that closes it', async (t) => {
  const home = await fresh(t)
  await checkHome(home)
  await chmod(home.caKey, 0o644)
  await t.rejects(checkHome(home), { code: 'HOME_INVALID', message: /chmod 600 .*ca\.key/ })
  await chmod(home.caKey, 0o600)
  await chmod(home.path, 0o755)
  await t.rejects(checkHome(home), { code: 'HOME_INVALID', message: /chmod 700/ })
  await t.rejects(checkHome(new Home(join(home.path, 'none'))), { code: 'HOME_INVALID', message: /does not exist/ })
})

t.test('a signing key that cannot be read is named by its path, never by its content', async (t) => {
  const home = await fresh(t)
  const [name = ''] = await readdir(home.keys)
  await writeFile(join(home.keys, name), '{"seed": "secret')
  const error = await readSigningKey(home).catch((thrown: Error) => thrown)
  t.match(error, { code: 'HOME_INVALID', message: name })
  t.notMatch((error as Error).message, 'secret')
  await writeFile(join(home.keys, name), JSON.stringify({ seed: '00'.repeat(32), publicKey: '11'.repeat(32) }))
  await t.rejects(readSigningKey(home), { code: 'HOME_INVALID', message: /does not belong to its seed/ })
})

t.test('a lock is exclusive while its holder lives, and free again when released', async (t) => {
  const path = join(t.testdir(), 'lock')
  const release = await lockHome(path, 'controller')
  await t.rejects(lockHome(path, 'controller'), { code: 'HOME_IN_USE', message: new RegExp(`held by the controller with process id ${process.pid}`) })
  await release()
  await release()
  const again = await lockHome(path, 'lab')
  await again()
  t.same(await readdir(join(path, '..')), [], 'nothing is left behind')
})

t.test('the lock of a process that died is taken over, also when its pid lives on as another process', async (t) => {
  const path = join(t.testdir(), 'lock')
  const child = spawn('true')
  await new Promise((resolve) => child.on('exit', resolve))
  for (const dead of [
    { pid: child.pid, startTicks: '1', holder: 'controller' },
    { pid: process.pid, startTicks: '1', holder: 'controller' },
  ]) {
    await writeFile(path, JSON.stringify(dead))
    await (await lockHome(path, 'controller'))()
  }
  await writeFile(path, 'torn')
  await (await lockHome(path, 'controller'))()
})

t.test('crashes on crashes, deeper than can be taken over, are told at once and by name', async (t) => {
  const directory = t.testdir()
  const names = ['lock', 'lock.stale', 'lock.stale.stale', 'lock.stale.stale.stale']
  for (const name of names) await writeFile(join(directory, name), JSON.stringify({ pid: 4_000_000, startTicks: '1', holder: 'controller' }))
  const take = async () => await lockHome(join(directory, 'lock'), 'controller')
  await t.rejects(take(), { code: 'HOME_IN_USE', message: /lock\.stale\.stale\.stale is left over from a crash; remove it/ })
  t.same((await readdir(directory)).toSorted(), names, 'nothing is added, nothing is taken')
  await unlink(join(directory, names.at(-1) as string))
  await (await take())()
  t.same(await readdir(directory), [], 'and then it goes on')
})

t.test('of many starters at once, exactly one gets a stale lock', async (t) => {
  const path = join(t.testdir(), 'lock')
  const stale = JSON.stringify({ pid: 4_000_000, startTicks: '1', holder: 'controller' })
  for (let round = 0; round < 40; round++) {
    await writeFile(path, stale)
    // Every other time one of them died while it took the lock over.
    if (round % 2 === 1) await writeFile(`${path}.stale`, stale)
    const results = await Promise.allSettled(Array.from({ length: 12 }, async () => await lockHome(path, 'controller')))
    const held = results.filter((one) => one.status === 'fulfilled')
    const codes = results.flatMap((one) => (one.status === 'rejected' ? [(one.reason as { code: string }).code] : []))
    if (held.length !== 1 || codes.some((code) => code !== 'HOME_IN_USE')) t.fail(`round ${round}: ${held.length} hold it; ${codes.join(' ')}`)
    for (const one of held) await one.value()
  }
  t.same(await readdir(join(path, '..')), [], 'nothing is left behind')
})

t.test('an atomic write replaces whole files, closes them to others and leaves nothing behind', async (t) => {
  const directory = t.testdir({ 'a.json': 'old', '.tmp-a.json-1234': 'half' })
  const path = join(directory, 'a.json')
  await writeAtomic(path, 'new')
  t.equal(String(await readIfThere(path)), 'new')
  t.equal((await stat(path)).mode & 0o777, 0o600)
  await cleanTemporaries(directory)
  t.same(await readdir(directory), ['a.json'])
  t.equal(await readIfThere(join(directory, 'none')), null)
})

t.test(
  'a full disk is STORE_FULL, the old file stands and nothing is left behind',
  { skip: process.getuid?.() === 0 ? false : 'needs root to mount a small disk' },
  async (t) => {
    const directory = t.testdir()
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', directory])
    try {
      const path = join(directory, 'a.json')
      await writeAtomic(path, 'old')
      await t.rejects(writeAtomic(path, Buffer.alloc(64 * 1024)), { code: 'STORE_FULL' })
      t.equal(String(await readIfThere(path)), 'old')
      t.same(await readdir(directory), ['a.json'])
    } finally {
      execFileSync('umount', [directory])
    }
  },
)
