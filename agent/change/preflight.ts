/**
 * Whether the device has room for a version before anything of it is stored or started: memory for it to run beside what runs, disk for its
 * bundle and the change's records, a place among the services and the open changes. Pure: the facts come in, the shortages go out.
 */
import { OffboxError } from '../../core/errors.ts'
import { limitsOf, type Manifest } from '../../core/manifest.ts'
import { changesOpenMax, servicesMax } from '../limits.ts'

const MIB = 1024 * 1024

/** What a version takes at least until it serves: its worker with the sandbox is 14 MB, a process of its own 40. */
export const startMb = { worker: 24, process: 56 } as const
/** What must be left for the agent and the kernel when a version has come beside another. */
export const memoryMarginMb = 16
/** Records of a change, its receipt, the audit log: under 100 kB; the rest is for what happens meanwhile. */
export const diskMarginBytes = MIB

export interface Room {
  /** Of the machine, or what the agent's control group still allows if that is less. */
  readonly memoryAvailableBytes: number
  /** In the file system of the state directory; undefined: it is memory without a bound of its own (ramfs). */
  readonly stateAvailableBytes: number | undefined
}

export interface Candidate {
  readonly manifest: Manifest
  /** Of the whole file. */
  readonly bundleBytes: number
  /** What the version that runs uses now, if one does and that is known: the next one is likely to need as much. */
  readonly presentBytes: number
  /** Bytes of the state it will take over, as far as known. */
  readonly stateBytes: number
}

export interface Occupied {
  /** Installed, and this one is not among them. */
  readonly others: number
  /** Changes of versions that are not settled, this one not among them. */
  readonly changesOpen: number
}

/** What is short, in words with both numbers; empty: there is room. */
export function shortages(candidate: Candidate, room: Room, occupied: Occupied): string[] {
  const found: string[] = []
  const diskBytes = candidate.bundleBytes + diskMarginBytes
  const memoryBytes = neededMemoryBytes(candidate) + (room.stateAvailableBytes === undefined ? diskBytes : 0)
  if (room.memoryAvailableBytes < memoryBytes) found.push(`memory: ${mib(memoryBytes)} MiB are needed, ${mib(room.memoryAvailableBytes)} are available`)
  if (room.stateAvailableBytes !== undefined && room.stateAvailableBytes < diskBytes)
    found.push(`disk: ${mib(diskBytes)} MiB are needed for the bundle and the journal, ${mib(room.stateAvailableBytes)} are available`)
  if (occupied.others >= servicesMax) found.push(`slots: ${occupied.others} services are installed, no more than ${servicesMax} can be`)
  if (occupied.changesOpen >= changesOpenMax) found.push(`slots: ${occupied.changesOpen} changes are open, no more than ${changesOpenMax} can be`)
  return found
}

/** @throws PREFLIGHT_REFUSED naming all that is short */
export function admitRoom(candidate: Candidate, room: Room, occupied: Occupied): void {
  const found = shortages(candidate, room, occupied)
  const { name, version } = candidate.manifest
  if (found.length > 0) throw new OffboxError('PREFLIGHT_REFUSED', `${name} ${version} does not fit on this device now: ${found.join('; ')}`)
}

/**
 * A manifest that states limits.memoryMbMax says what it needs, and gets it or is refused. The default of that limit is no need: it has
 * room for leaks, and to ask for it would refuse every swap on a device of half a gigabyte.
 */
function neededMemoryBytes({ manifest, presentBytes, stateBytes }: Candidate): number {
  const { memoryMbMax } = limitsOf(manifest)
  const stated = manifest.limits?.memoryMbMax === undefined ? 0 : memoryMbMax
  const needed = Math.max(stated * MIB, Math.min(presentBytes, memoryMbMax * MIB), startMb[manifest.tier ?? 'worker'] * MIB)
  return needed + stateBytes + memoryMarginMb * MIB
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1)
}
