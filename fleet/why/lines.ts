/** Cuts bytes into lines without their line feeds; one that is longer than any may be is handed on cut, and found wrong. */
import { entryBytesMax } from '../../core/audit/entries.ts'

export async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let rest = Buffer.alloc(0)
  for await (const chunk of chunks) {
    let bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
      yield bytes.subarray(0, end)
      bytes = bytes.subarray(end + 1)
    }
    rest = bytes.length > 2 * entryBytesMax ? Buffer.from(bytes.subarray(0, 2 * entryBytesMax)) : Buffer.from(bytes)
  }
  if (rest.length > 0) yield rest
}
