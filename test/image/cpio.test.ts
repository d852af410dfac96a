import t from 'tap'
import { writeCpio, type Entry } from '../../image/cpio.ts'
import { readCpio } from '../../image/cpio-read.ts'

const pack = (entries: Entry[]) => Buffer.concat([...writeCpio(entries)])
const file = (path: string, text: string, mode = 0o644): Entry => ({ path, mode, type: 'file', data: Buffer.from(text) })

const ENTRIES: Entry[] = [
  file('/init', 'x', 0o755),
  file('/etc/empty', ''),
  file('/etc/four', '1234'),
  { path: '/dev/console', mode: 0o600, type: 'device', major: 5, minor: 1 },
  { path: '/lib64', mode: 0o777, type: 'symlink', target: 'lib' },
  { path: '/run', mode: 0o755, type: 'directory' },
]

t.test('what is written reads back, sorted, with the missing parents', async (t) => {
  const back = readCpio(pack(ENTRIES))
  t.same(
    back.map((entry) => [entry.path, entry.type, entry.mode.toString(8)]),
    [
      ['/dev', 'directory', '755'],
      ['/dev/console', 'device', '600'],
      ['/etc', 'directory', '755'],
      ['/etc/empty', 'file', '644'],
      ['/etc/four', 'file', '644'],
      ['/init', 'file', '755'],
      ['/lib64', 'symlink', '777'],
      ['/run', 'directory', '755'],
    ],
  )
  const four = back.find((entry) => entry.path === '/etc/four')
  t.equal(four?.type === 'file' && Buffer.from(four.data).toString(), '1234')
})

t.test('the order of entries does not change a byte', async (t) => {
  t.ok(pack(ENTRIES).equals(pack(ENTRIES.toReversed())))
})

t.test('every record starts at a multiple of four', async (t) => {
  for (let length = 0; length < 9; length++) {
    const archive = pack([file(`/${'n'.repeat(length + 1)}`, 'd'.repeat(length))])
    t.equal(archive.length % 4, 0)
    t.equal(readCpio(archive).length, 1)
  }
})

t.test('paths that leave the root, or come twice, are refused', async (t) => {
  for (const path of ['etc', '/', '/a/../b', '/a/./b', '/a//b', '/a/', '/..']) t.throws(() => pack([file(path, '')]), { code: 'IMAGE_INVALID' }, path)
  t.throws(() => pack([file('/a', ''), file('/a', '')]), { code: 'IMAGE_INVALID' })
})

t.test('no cut and no flipped header byte makes the reader do anything but refuse or answer', async (t) => {
  const archive = pack(ENTRIES)
  for (let length = 0; length < archive.length; length += 3) t.throws(() => readCpio(archive.subarray(0, length)), { code: 'IMAGE_INVALID' })
  for (let at = 0; at < archive.length; at++) {
    const broken = Buffer.from(archive)
    broken[at] = (broken[at] ?? 0) ^ 0x41
    try {
      readCpio(broken)
    } catch (error) {
      t.equal((error as { code?: string }).code, 'IMAGE_INVALID')
    }
  }
  t.throws(() => readCpio(Buffer.concat([archive, Buffer.alloc(8)])), { code: 'IMAGE_INVALID' })
})
