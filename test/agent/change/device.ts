/** The change side of an agent over a fake disk, clock and supervisor: what a restart of the process keeps is the disk alone. */
import { generateKeyPairSync, sign } from 'node:crypto'
import { Engine } from '../../../agent/change/engine.ts'
import { Journal } from '../../../agent/change/journal.ts'
import type { Room } from '../../../agent/change/preflight.ts'
import { Receipts } from '../../../agent/change/receipts.ts'
import { ServiceChanges, type ServiceOrder } from '../../../agent/change/service-changes.ts'
import type { ChangeRecord } from '../../../agent/change/types.ts'
import type { VerifiedBundle } from '../../../agent/supervisor/types.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { FloorStore } from '../../../agent/trust/floors.ts'
import { BundleStore } from '../../../agent/trust/store.ts'
import { verifyBundle } from '../../../agent/trust/verify.ts'
import { OffboxError } from '../../../core/errors.ts'
import { CAPABILITIES } from '../../../core/manifest.ts'
import { FakeClock } from '../../fakes/clock.ts'
import type { FakeFileSystem } from '../../fakes/file-system.ts'
import { FakeSupervisor } from '../../fakes/supervisor.ts'
import { makeBundle, makeKey, trust } from '../../fixtures/bundles.ts'

export const key = makeKey()
const keys = trust(key)
const deviceKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
const bundleFiles = new Map<string, Uint8Array>()

const verifiedFiles = new Map<Uint8Array, VerifiedBundle>()

/** The signature of one file is checked once a run of the tests: tweetnacl is slow. */
function verifyOnce(file: Uint8Array): VerifiedBundle {
  const made = verifiedFiles.get(file) ?? verifyBundle(file, keys)
  verifiedFiles.set(file, made)
  return made
}

export interface Device {
  readonly disk: FakeFileSystem
  readonly clock: FakeClock
  readonly supervisor: FakeSupervisor
  readonly engine: Engine
  readonly services: ServiceChanges
  readonly bundles: BundleStore
  readonly floors: FloorStore
  readonly receipts: Receipts
  readonly forgotten: string[]
  readonly errors: string[]
  /** What preflight finds. */
  room: Room
}

interface Start {
  readonly clock?: FakeClock
  readonly supervisor?: FakeSupervisor
  readonly enrolled?: boolean
  readonly admitStored?: (bundle: VerifiedBundle) => void
}

/** A process that starts on what `disk` holds. */
export async function boot(disk: FakeFileSystem, over: Start = {}): Promise<Device> {
  const files = new AtomicFiles(disk)
  await files.sweep('/state')
  const errors: string[] = []
  const log = { info: () => {}, error: (_: object, message: string) => void errors.push(message) }
  const { clock = new FakeClock(), supervisor = new FakeSupervisor() } = over
  const bundles = new BundleStore(files, '/state', () => keys)
  const floors = new FloorStore(files, '/state', keys)
  await floors.load()
  const signAs = (bytesFor: (deviceId: string) => Uint8Array) => {
    if (over.enrolled === false) throw new OffboxError('STATE_REFUSED', 'no identity yet')
    return { signature: sign('sha256', bytesFor('sw1'), { key: deviceKey, dsaEncoding: 'ieee-p1363' }), chainPem: 'none' }
  }
  const receipts = new Receipts({ files, directory: '/state/receipts', clock, bootId: 'boot', sign: signAs, log })
  await receipts.load()
  const receipt = async (record: ChangeRecord) => await receipts.give(record)
  const engine = new Engine({ journal: new Journal(files, '/state/changes', log.error), clock, log, receipt })
  const forgotten: string[] = []
  const plenty: Room = { memoryAvailableBytes: 2 ** 30, stateAvailableBytes: 2 ** 30 }
  const services: ServiceChanges = new ServiceChanges({
    ...{ engine, supervisor, bundles, floors, clock, log, granted: new Set(CAPABILITIES), isOwnMethod: () => false },
    trust: { ordered: async (_, file) => verifyOnce(file), admitStored: over.admitStored ?? (() => {}) },
    room: async () => device.room,
    forgetState: async (service) => void forgotten.push(service),
  })
  const device: Device = { disk, clock, supervisor, engine, services, bundles, floors, receipts, forgotten, errors, room: plenty }
  await engine.recover()
  await services.startActive()
  return device
}

export function bundleOf(version: string, service = 'counter'): Uint8Array {
  const name = `${service} ${version}`
  const made = bundleFiles.get(name) ?? makeBundle(key, { name: service, version })
  bundleFiles.set(name, made)
  return made
}

export function orderOf(kind: ServiceOrder['kind'], version: string, over: Partial<ServiceOrder> = {}): ServiceOrder {
  const plain = {
    service: 'counter',
    allowDowngrade: false,
    bakeMs: 0,
    confirmTimeoutMs: 60_000,
    config: undefined,
    reason: '',
    author: 'spiffe://lab/operator/me',
  }
  return { ...plain, kind, version, ...over }
}

/** Over a connection opened just now. */
export async function confirm({ engine, clock }: Device, id: string): Promise<void> {
  await clock.advance(1)
  await engine.confirm(id, { principal: 'spiffe://lab/operator/me', connectionOpenedAtMs: clock.monotonicMs() })
}
