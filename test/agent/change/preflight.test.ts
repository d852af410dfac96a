import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { admitRoom, type Candidate, diskMarginBytes, memoryMarginMb, type Room, shortages, startMb } from '../../../agent/change/preflight.ts'
import { changesOpenMax, servicesMax } from '../../../agent/limits.ts'
import { readRoom } from '../../../agent/store/room.ts'
import type { Manifest } from '../../../core/manifest.ts'

const MIB = 1024 * 1024
const manifest = (over: Partial<Manifest> = {}): Manifest => ({
  ...{ schema: 1, name: 'a', version: '1.1.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 64 },
  payload: { sha256: '', sizeBytes: 0 },
  ...over,
})
const candidate = (over: Partial<Candidate> = {}): Candidate => ({ manifest: manifest(), bundleBytes: MIB, presentBytes: 0, stateBytes: 0, ...over })
const plenty: Room = { memoryAvailableBytes: 1024 * MIB, stateAvailableBytes: 1024 * MIB }
const nobody = { others: 0, changesOpen: 0 }

t.test('what is short is named with both numbers, all of it at once, and nothing else', async (t) => {
  t.same(shortages(candidate(), plenty, nobody), [])
  const short = shortages(candidate(), { memoryAvailableBytes: MIB, stateAvailableBytes: MIB }, { others: servicesMax, changesOpen: changesOpenMax })
  t.match(short, [/^memory: 40\.0 MiB are needed, 1\.0 are available$/, /^disk: 2\.0 MiB/, /^slots: 64 services/, /^slots: 8 changes/])
  t.throws(() => admitRoom(candidate(), { ...plenty, memoryAvailableBytes: 0 }, nobody), {
    code: 'PREFLIGHT_REFUSED',
    message: 'a 1.1.0 does not fit on this device now: memory: 40.0 MiB are needed, 0.0 are available',
  })
})

t.test('memory: what the manifest states, or what the version before uses, or what a start takes; and the state on its way', async (t) => {
  const enough = (over: Partial<Candidate>, mib: number) => {
    t.same(shortages(candidate(over), { ...plenty, memoryAvailableBytes: mib * MIB }, nobody), [], `${mib} MiB suffice`)
    t.match(shortages(candidate(over), { ...plenty, memoryAvailableBytes: mib * MIB - 1 }, nobody), [/memory/], 'one byte less does not')
  }
  enough({}, startMb.worker + memoryMarginMb)
  enough({ manifest: manifest({ tier: 'process' }) }, startMb.process + memoryMarginMb)
  enough({ presentBytes: 100 * MIB }, 100 + memoryMarginMb)
  enough({ presentBytes: 900 * MIB }, 64 * 2 + 64 + memoryMarginMb)
  enough({ presentBytes: 100 * MIB, stateBytes: 50 * MIB }, 150 + memoryMarginMb)
  enough({ manifest: manifest({ limits: { memoryMbMax: 300 } }) }, 300 + memoryMarginMb)
})

t.test('a file system without a size of its own takes from memory', async (t) => {
  const bytes = (startMb.worker + memoryMarginMb + 1) * MIB + diskMarginBytes
  t.same(shortages(candidate(), { memoryAvailableBytes: bytes, stateAvailableBytes: undefined }, nobody), [])
  t.match(shortages(candidate(), { memoryAvailableBytes: bytes - 1, stateAvailableBytes: undefined }, nobody), [/memory/])
})

t.test('the facts are the machine’s: /proc/meminfo, the group above, a real small file system', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'obx-room-'))
  t.teardown(async () => await rm(directory, { recursive: true, force: true }))
  const roots = { proc: join(directory, 'proc'), cgroup: join(directory, 'cgroup') }
  await mkdir(join(roots.proc, 'self'), { recursive: true })
  await mkdir(join(roots.cgroup, 'outer/inner'), { recursive: true })
  await writeFile(join(roots.proc, 'meminfo'), 'MemTotal:  4096 kB\nMemAvailable:    2048 kB\n')
  t.equal((await readRoom(directory, roots)).memoryAvailableBytes, 2 * MIB)
  await writeFile(join(roots.proc, 'self/cgroup'), '0::/outer/inner\n')
  await writeFile(join(roots.cgroup, 'outer/inner/memory.max'), 'max\n')
  await writeFile(join(roots.cgroup, 'outer/memory.max'), '3145728\n')
  await writeFile(join(roots.cgroup, 'outer/memory.current'), '2097152\n')
  t.equal((await readRoom(directory, roots)).memoryAvailableBytes, MIB, 'a bound further up counts')
  t.ok((await readRoom('/proc')).memoryAvailableBytes > MIB)
})

t.test('a tmpfs of 3 MiB refuses a bundle of 4 and takes one of 1', { skip: process.getuid?.() === 0 ? false : 'needs root to mount' }, async (t) => {
  const mount = await mkdtemp(join(tmpdir(), 'obx-small-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'none', mount])
  t.teardown(async () => {
    execFileSync('umount', [mount])
    await rm(mount, { recursive: true })
  })
  const room = await readRoom(mount)
  t.equal(room.stateAvailableBytes, 3 * MIB)
  t.same(shortages(candidate(), room, nobody), [])
  t.match(shortages(candidate({ bundleBytes: 4 * MIB }), room, nobody), [/^disk: 5\.0 MiB are needed for the bundle and the journal, 3\.0 are available/])
})
