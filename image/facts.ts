/** The build facts: what is in an image, by digest. The image carries them, `Device.Info` names their digest. */
import { createHash } from 'node:crypto'
import type { Entry } from './cpio.ts'

export interface FileFact {
  readonly path: string
  /** Octal permission bits, four digits. */
  readonly mode: string
  readonly sizeBytes: number
  /** Hex. */
  readonly sha256: string
}

/** /etc/offbox/image.json inside the image. Holds no time and no name of the machine that built it. */
export interface ImageFacts {
  readonly format: 1
  readonly agentVersion: string
  readonly nodeVersion: string
  readonly kernel: { readonly release: string; readonly package: string; readonly version: string; readonly sha256: string }
  /** Debian packages of the programs: name to version. */
  readonly packages: Readonly<Record<string, string>>
  /** Every regular file but image.json itself, by path. */
  readonly files: readonly FileFact[]
  /** SHA-256, hex, of the JSON of all the above: names this image. */
  readonly imageSha256: string
}

/** image.json beside the two artifacts: the facts, and the digests of what a device downloads. */
export interface ImageDescription extends ImageFacts {
  readonly artifacts: Readonly<Record<'vmlinuz' | 'initrd.img', { readonly sizeBytes: number; readonly sha256: string }>>
}

export function describeFiles(entries: readonly Entry[]): FileFact[] {
  const files = entries.flatMap((entry) => {
    if (entry.type !== 'file') return []
    return [{ path: entry.path, mode: entry.mode.toString(8).padStart(4, '0'), sizeBytes: entry.data.length, sha256: sha256(entry.data) }]
  })
  return files.sort((one, other) => (one.path < other.path ? -1 : 1))
}

/** Adds the digest over the rest. Key order is part of the digest: always built here. */
export function sealFacts(facts: Omit<ImageFacts, 'imageSha256'>): ImageFacts {
  const { format, agentVersion, nodeVersion, kernel, packages, files } = facts
  const ordered = { format, agentVersion, nodeVersion, kernel, packages, files }
  return { ...ordered, imageSha256: sha256(Buffer.from(JSON.stringify(ordered))) }
}

export function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
