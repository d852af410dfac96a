import t from 'tap'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { nodeFileSystem } from '../../../agent/store/file-system.ts'
import { Cut, failure, FakeFileSystem } from '../../fakes/file-system.ts'

const text = (bytes: Uint8Array | null) => (bytes === null ? null : Buffer.from(bytes).toString())
const path = '/state/a/file'

t.test('a file cut at any operation, by a kill or by the power, is wholly the old one or wholly the new one', async (t) => {
  for (const after of ['kill', 'power'] as const) {
    for (let at = 1; ; at++) {
      const disk = new FakeFileSystem()
      await new AtomicFiles(disk).write(path, Buffer.from('old'))
      disk.cutAt(at)
      const done = await new AtomicFiles(disk).write(path, Buffer.from('the new content')).then(
        () => true,
        (error) => t.ok(error instanceof Cut) && false,
      )
      const files = new AtomicFiles(disk.restarted(after))
      await files.sweep('/state')
      const found = text(await files.read(path))
      if (done) {
        t.equal(found, 'the new content', 'durable once it resolved')
        t.ok(at > 4, 'every step was cut')
        break
      }
      t.ok(found === 'old' || found === 'the new content', `${after} at ${at}: ${found}`)
      t.same(await files.list('/state/a'), ['file'], 'nothing is left behind')
    }
  }
})

t.test('a full disk at any step leaves the old content and is STORE_FULL', async (t) => {
  for (const failing of ['create', 'sync', 'rename']) {
    const disk = new FakeFileSystem()
    const files = new AtomicFiles(disk)
    await files.write(path, Buffer.from('old'))
    disk.before = (_, name, where) => {
      if (name === failing && where.includes('.tmp-')) throw failure('ENOSPC')
    }
    await t.rejects(files.write(path, Buffer.from('new')), { code: 'STORE_FULL' })
    disk.before = () => {}
    t.equal(text(await files.read(path)), 'old')
    t.same(disk.paths(), [path], 'the temporary file is gone')
    await files.write(path, Buffer.from('new'))
    t.equal(text(await files.read(path)), 'new', 'and it works again when there is room')
  }
})

t.test('a rotted file is STORE_CORRUPT once, set aside, and then absent', async (t) => {
  for (const at of [0, 10, -1]) {
    const disk = new FakeFileSystem()
    const files = new AtomicFiles(disk)
    await files.write(path, Buffer.from('content'))
    disk.rot(path, at)
    await t.rejects(files.read(path), { code: 'STORE_CORRUPT' })
    t.equal(await files.read(path), null)
    t.same(disk.paths(), [`${path}.corrupt`])
    t.same(await files.list('/state/a'), [])
  }
})

t.test('writes to one file at once follow one another', async (t) => {
  const files = new AtomicFiles(new FakeFileSystem())
  await Promise.all(Array.from({ length: 10 }, async (_, at) => await files.write(path, Buffer.from(`${at}`))))
  t.equal(text(await files.read(path)), '9')
})

t.test('the real file system keeps the same promises, with modes', async (t) => {
  const directory = t.testdir()
  const files = new AtomicFiles(nodeFileSystem)
  const real = `${directory}/deep/er/file`
  await files.write(real, Buffer.from('one'))
  await files.write(real, Buffer.from('two'))
  t.equal(text(await files.read(real)), 'two')
  await nodeFileSystem.create(`${directory}/deep/.tmp-1-1-x`, Buffer.from('torn'), 0o600)
  await files.sweep(directory)
  t.same(await nodeFileSystem.list(`${directory}/deep`), [{ name: 'er', directory: true }])
  const { stat } = await import('node:fs/promises')
  t.equal((await stat(real)).mode & 0o777, 0o600)
  t.equal((await stat(`${directory}/deep`)).mode & 0o777, 0o700)
  await files.remove(real)
  await files.remove(real)
  t.equal(await files.read(real), null)
  await files.removeTree(`${directory}/deep`)
  await files.removeTree(`${directory}/deep`)
})
