import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { type Disk, nodeDisk, readGeneration, type RepositoryFiles, writeGeneration } from '../../../fleet/trust/generations.ts'
import { delegate, refresh } from '../../../fleet/trust/trust.ts'
import { testTrust } from './fixtures.ts'

class Killed extends Error {
  override readonly name = 'Killed'
}

/** Ends everything at operation `at`; a write that is hit leaves half its bytes. */
function cutAt(at: number): Disk & { operations: number } {
  const cut = { operations: 0 } as Disk & { operations: number }
  for (const name of Object.keys(nodeDisk) as (keyof Disk)[]) {
    const real = nodeDisk[name] as (...args: unknown[]) => Promise<void>
    const wrapped = async (...args: unknown[]) => {
      cut.operations += 1
      if (cut.operations > at) throw new Killed()
      if (cut.operations === at) {
        if (name === 'write') writeFileSync(args[0] as string, (args[1] as Uint8Array).subarray(0, (args[1] as Uint8Array).length / 2))
        throw new Killed()
      }
      await real(...args)
    }
    Object.assign(cut, { [name]: wrapped })
  }
  return cut
}

const text = (files: RepositoryFiles | null) =>
  files &&
  Object.fromEntries([...files].map(([name, bytes]) => [name, Buffer.from(bytes).toString()]).sort(([a], [b]) => ((a as string) < (b as string) ? -1 : 1)))
const filesOf = (entries: Record<string, string>): RepositoryFiles =>
  new Map(Object.entries(entries).map(([name, one]) => [name, new TextEncoder().encode(one)]))

const OLD = { '1.root.json': 'root one', '1.snapshot.json': 'snapshot one', '1.targets.json': 'targets one', 'timestamp.json': 'old' }
const NEW = {
  '1.root.json': 'root one',
  '2.root.json': 'root two',
  '2.snapshot.json': 'snapshot two',
  '1.targets.json': 'targets one',
  'timestamp.json': 'new',
}

t.test('a process that dies at any operation of a publication leaves the old repository, or the new one', async (t) => {
  const seen = { old: 0, new: 0 }
  let finished = false
  for (let at = 1; !finished; at++) {
    const path = mkdtempSync(join(tmpdir(), 'offbox-trust-crash-'))
    try {
      await writeGeneration(path, filesOf(OLD))
      const disk = cutAt(at)
      finished = await writeGeneration(path, filesOf(NEW), disk).then(
        () => true,
        (error) => {
          if (error instanceof Killed) return false
          throw error
        },
      )
      const now = text(await readGeneration(path))
      const which = JSON.stringify(now) === JSON.stringify(text(filesOf(OLD))) ? 'old' : 'new'
      seen[which] += 1
      t.same(now, text(filesOf(which === 'old' ? OLD : NEW)), `killed at operation ${at}: ${which}`)
      // Whoever comes next publishes as if nothing had been.
      await writeGeneration(path, filesOf(NEW))
      t.same(text(await readGeneration(path)), text(filesOf(NEW)))
      t.ok(readdirSync(join(path, 'generations')).length <= 2, 'and clears what was left behind')
    } finally {
      rmSync(path, { recursive: true, force: true })
    }
  }
  t.ok(seen.old >= 8 && seen.new >= 2, 'both ends were seen')
})

t.test('nothing is read from the first publication before it is whole', async (t) => {
  const path = mkdtempSync(join(tmpdir(), 'offbox-trust-crash-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  for (let at = 1; at < 6; at++) {
    await t.rejects(writeGeneration(path, filesOf(OLD), cutAt(at)), { name: 'Killed' })
    t.equal(await readGeneration(path), null)
  }
})

t.test('a change that dies half-way can be made again, and the repository verifies throughout', async (t) => {
  const trust = await testTrust()
  t.teardown(() => trust.remove())
  for (const at of [3, 7, 11]) {
    await t.rejects(delegate({ ...trust.context(), disk: cutAt(at) }, 'telemetry'), { name: 'Killed' })
    t.equal((await trust.read()).targets.signed.version, 1)
  }
  await delegate(trust.context(), 'telemetry')
  t.equal((await trust.read()).targets.signed.version, 2, 'no version was used up')
})

t.test('a rotten or torn file is never used', async (t) => {
  const trust = await testTrust()
  t.teardown(() => trust.remove())
  await refresh(trust.context())
  const directory = join(trust.path, 'repository')
  for (const name of ['1.root.json', 'timestamp.json', '1.snapshot.json', '1.targets.json']) {
    const path = join(directory, name)
    const good = readFileSync(path)
    truncateSync(path, good.length >> 1)
    await t.rejects(trust.read(), { code: 'STORE_CORRUPT' }, `${name} torn`)
    // A digit of the version or of a key: still JSON, and no longer what was signed.
    writeFileSync(
      path,
      good.toString().replace(/"sig": "(.)/, (all, digit) => all.slice(0, -1) + (digit === '0' ? '1' : '0')),
    )
    await t.rejects(trust.read(), { code: 'STORE_CORRUPT' }, `${name} with a flipped signature`)
    writeFileSync(path, good)
  }
  await trust.read()
  rmSync(join(directory, '1.targets.json'))
  await t.rejects(trust.read(), { code: 'STORE_CORRUPT' }, 'a file is missing')
  await t.rejects(refresh(trust.context()), { code: 'STORE_CORRUPT' }, 'and nothing is built upon it')
})

t.test('two commands at once: one of them is told so', async (t) => {
  const trust = await testTrust()
  t.teardown(() => trust.remove())
  const results = await Promise.allSettled([refresh(trust.context()), refresh(trust.context()), delegate(trust.context(), 'telemetry')])
  const refused = results.filter((one) => one.status === 'rejected')
  t.equal(refused.length, 2)
  for (const one of refused) t.match(one.reason, { code: 'HOME_IN_USE' })
  t.equal((await trust.read()).timestamp.signed.version, 2)
})
