/**
 * CRC-32 of state that is handed over. Node's own is the fastest by far, but its module costs each worker 5 ms when it is loaded: so it is
 * loaded when a service has been up for a while or has much to hand over, and little state is summed up here.
 */

// Taken when the module is loaded: the global goes away.
const getBuiltinModule = process.getBuiltinModule.bind(process)

/** Up to here a table takes no more than half a millisecond. */
const TABLE_BYTES_MAX = 64 * 1024

let native: ((bytes: Uint8Array, sum?: number) => number) | undefined
let table: Uint32Array | undefined

/** As that of zlib; `sum`: of the bytes before these. */
export function crc32(bytes: Uint8Array, sum = 0): number {
  if (!native && bytes.byteLength > TABLE_BYTES_MAX) loadChecksums()
  return native ? native(bytes, sum) : crc32ByTable(bytes, sum)
}

/** Loads Node's own, for the time when calls are held. */
export function loadChecksums(): void {
  native ??= getBuiltinModule('node:zlib').crc32
}

export function crc32ByTable(bytes: Uint8Array, sum = 0): number {
  table ??= makeTable()
  let crc = ~sum
  for (let at = 0; at < bytes.length; at++) crc = (table[(crc ^ (bytes[at] ?? 0)) & 0xff] ?? 0) ^ (crc >>> 8)
  return ~crc >>> 0
}

/** Of the reversed polynomial of IEEE 802.3. */
function makeTable(): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, index) => {
    let entry = index
    for (let bit = 0; bit < 8; bit++) entry = entry & 1 ? (entry >>> 1) ^ 0xedb88320 : entry >>> 1
    return entry
  })
}
