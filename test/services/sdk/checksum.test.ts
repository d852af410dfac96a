import { crc32 as zlibCrc32 } from 'node:zlib'
import t from 'tap'
import { crc32, crc32ByTable } from '../../../services/sdk/checksum.ts'

const bytes = Uint8Array.from({ length: 100_000 }, (_, index) => (index * 31 + (index >> 7)) & 0xff)

t.test('the checksum is that of zlib, little or much, whole or in pieces', async (t) => {
  for (const length of [0, 1, 255, 4_096, 65_536, 100_000]) {
    const part = bytes.subarray(0, length)
    t.equal(crc32ByTable(part), zlibCrc32(part), `${length} bytes`)
    t.equal(crc32(part), zlibCrc32(part), `${length} bytes`)
  }
  t.equal(crc32ByTable(bytes.subarray(70), crc32ByTable(bytes.subarray(0, 70))), zlibCrc32(bytes))
  t.equal(crc32(bytes.subarray(70), crc32(bytes.subarray(0, 70))), zlibCrc32(bytes))
})
