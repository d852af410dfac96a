import { chmod, link, lstat, readdir, readFile, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { bundleBytesMax } from '../../../core/bundle-format.ts'
import { readBundleFile, readInput, replaceFile } from '../../../fleet/cli/files.ts'

t.test('a file is read up to the bound and not beyond, also one that tells no size and has no end', async (t) => {
  const path = join(t.testdir({ a: 'four' }), 'a')
  t.equal(Buffer.from(await readInput(path, 4)).toString(), 'four')
  await t.rejects(readInput(path, 3), { code: 'ARGUMENT_INVALID', message: /more than 3 bytes/ })
  await t.rejects(readInput('/dev/zero', 1000), { code: 'ARGUMENT_INVALID', message: /more than 1000 bytes/ })
  await t.rejects(readBundleFile('/dev/zero'), { code: 'BUNDLE_MALFORMED', message: new RegExp(`more than ${bundleBytesMax} bytes`) })
  await t.rejects(readInput(join(path, '../none'), 4), { code: 'ARGUMENT_INVALID', message: /cannot be read/ })
})

t.test('a file is replaced as a whole: who has the old one open keeps it, its mode stays, a link to it stays one', async (t) => {
  const directory = t.testdir({ a: 'old' })
  const [path, other, pointer] = ['a', 'other', 'pointer'].map((name) => join(directory, name)) as [string, string, string]
  await link(path, other)
  await symlink(path, pointer)
  await chmod(path, 0o640)
  await replaceFile(pointer, new TextEncoder().encode('new'))
  t.equal(await readFile(path, 'utf8'), 'new')
  t.equal(await readFile(other, 'utf8'), 'old', 'not written in place')
  t.equal((await stat(path)).mode & 0o777, 0o640)
  t.ok((await lstat(pointer)).isSymbolicLink())
  t.same((await readdir(directory)).toSorted(), ['a', 'other', 'pointer'], 'nothing is left behind')
  await t.rejects(replaceFile(join(directory, 'none'), new Uint8Array()), { code: 'ARGUMENT_INVALID', message: /cannot be written/ })
})
