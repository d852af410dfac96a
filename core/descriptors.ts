/**
 * Descriptors of a service's API inside its payload: the last line, a comment that holds encoded google.protobuf.FileDescriptorProtos in
 * base64. So they are covered by the payload's digest, cost a running service nothing, and are there while it is down. Pure.
 */
export const DESCRIPTOR_LIMITS = {
  filesMax: 64,
  /** All of them; the largest standard API (gnmi with what it imports) has 30 kB. */
  bytesMax: 256 * 1024,
} as const

const MARK = '\n//# offbox.descriptors='

/** @throws RangeError there are too many, or too much of them */
export function appendDescriptors(code: string, files: readonly Uint8Array[]): string {
  if (files.length === 0) return code
  const sizeBytes = files.reduce((sum, { byteLength }) => sum + byteLength, 0)
  if (files.length > DESCRIPTOR_LIMITS.filesMax || sizeBytes > DESCRIPTOR_LIMITS.bytesMax)
    throw new RangeError(`descriptors: ${files.length} files of ${sizeBytes} bytes, more than ${DESCRIPTOR_LIMITS.filesMax} or ${DESCRIPTOR_LIMITS.bytesMax}`)
  return `${code.trimEnd()}${MARK}${files.map((bytes) => Buffer.from(bytes).toString('base64')).join()}\n`
}

/** Empty for a payload without any, and for one that goes beyond the limits. */
export function readDescriptors(payload: Uint8Array): readonly Uint8Array[] {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)
  // In base64 with commas they take a third more.
  const tail = bytes.subarray(Math.max(0, bytes.byteLength - Math.ceil(DESCRIPTOR_LIMITS.bytesMax * 1.5))).toString('latin1')
  const at = tail.lastIndexOf(MARK)
  if (at < 0) return []
  const line = tail.slice(at + MARK.length).trimEnd()
  if (!/^[A-Za-z0-9+/=,]+$/.test(line)) return []
  const files = line.split(',').map((text) => new Uint8Array(Buffer.from(text, 'base64')))
  const sizeBytes = files.reduce((sum, { byteLength }) => sum + byteLength, 0)
  return files.length > DESCRIPTOR_LIMITS.filesMax || sizeBytes > DESCRIPTOR_LIMITS.bytesMax ? [] : files
}
