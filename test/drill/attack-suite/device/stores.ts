/** Attacks on what a device remembers: its store wiped, tampered with or set back while it is off, its disk not there at all, its clock wrong. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { COPY_NAMES } from '../../../../agent/trust/tuf/copies.ts'
import { packRecord, unpackRecord } from '../../../../agent/trust/tuf/record.ts'
import { AtomicFiles } from '../../../../agent/store/atomic.ts'
import { isErrorCode, OffboxError } from '../../../../core/errors.ts'
import type { MetadataPush } from '../../../../core/tuf/push.ts'
import type { SignedStatement } from '../../../../core/trust/statement.ts'
import { flipBit, makeBundle, makeKey } from '../../../fixtures/bundles.ts'
import { SERVICE } from '../attack.ts'
import type { DeviceAttack } from './judge.ts'
import { CODE } from './repository.ts'
import type { DeviceScene } from './scene.ts'

const DAY_MS = 86_400_000
const YEAR_MS = 365 * DAY_MS

const storeOf = (scene: DeviceScene) => join(scene.stateDir, 'trust/tuf')

async function rot(path: string): Promise<void> {
  await writeFile(path, flipBit(new Uint8Array(await readFile(path)), 900))
}

/** The device runs a first release, then a second one; the answer is what was right before the second. */
async function movedOn(scene: DeviceScene): Promise<{ old: MetadataPush; oldPath: string }> {
  const { repository } = scene
  const oldPath = repository.release(SERVICE, '1.0.0')
  await scene.honestOrder(oldPath)
  const old = repository.pushSince(1)
  await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
  await scene.shown()
  return { old, oldPath }
}

/** Off, then on again, which belongs to the set-up: from here on nothing may change. */
async function boot(scene: DeviceScene, how: Parameters<DeviceScene['restart']>[0]): Promise<void> {
  await scene.setUp(async () => await scene.restart(how))
  await scene.mark()
}

const wiped = (scene: DeviceScene) => ({ between: async () => await rm(join(scene.stateDir, 'trust'), { recursive: true }) })
const rotted = (scene: DeviceScene) => ({ between: async () => await Promise.all(COPY_NAMES.map(async (name) => await rot(join(storeOf(scene), name)))) })
const diskless = () => ({ diskless: true })

/** Three ways to forget, and what a stolen controller makes of it. */
const forgetful: readonly { what: string; how: (scene: DeviceScene) => Parameters<DeviceScene['restart']>[0] }[] = [
  { what: 'wiped store', how: wiped },
  { what: 'tampered store: both copies rotted', how: rotted },
  { what: 'reboot of a diskless device', how: diskless },
]

const title = (what: string, rest: string) => (what.includes(':') ? `${what}, ${rest}` : `${what}: ${rest}`)

const FORGOTTEN: readonly DeviceAttack[] = forgetful.flatMap(({ what, how }): DeviceAttack[] => [
  {
    name: title(what, 'an old repository, without a word of the witness'),
    refused: ['TRUST_UNAVAILABLE'],
    why: /witness/,
    heldBy: 'witness',
    reboots: true,
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      scene.enroller = scene.silent
      await boot(scene, how(scene))
      return await scene.order(oldPath, old)
    },
  },
  {
    name: title(what, 'an old repository, with the word of the witness'),
    refused: ['TRUST_ROLLBACK'],
    why: /the witness has seen/,
    reboots: true,
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      scene.enroller = scene.stale(old)
      await boot(scene, how(scene))
      await scene.setUp(async () => await scene.agent.line(({ msg }) => msg === 'the enrolment brought what is refused'))
      // What the witness said is believed by now; nothing more is to be.
      await scene.mark()
      return await scene.order(oldPath, old)
    },
  },
  {
    name: title(what, 'the word of the witness from before, recorded'),
    refused: ['WITNESS_UNTRUSTED'],
    why: /another question/,
    reboots: true,
    run: async (scene) => {
      const { repository } = scene
      await scene.honestOrder(repository.release(SERVICE, '1.0.0'))
      await scene.shown()
      const recorded = await scene.forged({})
      await scene.setUp(async () => await scene.attest(recorded))
      scene.enroller = async () => ({ witness: { ...recorded } as SignedStatement })
      await boot(scene, how(scene))
      await scene.setUp(async () => await scene.agent.line(({ code, what: part }) => code === 'WITNESS_UNTRUSTED' && String(part).includes('statement')))
      await scene.forged({})
      return await scene.attest(recorded)
    },
  },
])

/** A service that does not start because of what lies in the store. @throws with the code that the device gives */
async function refusedStart(scene: DeviceScene): Promise<void> {
  const { reason } = await scene.serviceReason(SERVICE)
  const [code, ...rest] = reason.split(': ')
  if (isErrorCode(code)) throw new OffboxError(code, rest.join(': '))
}

/** The file of the version that is to run, replaced while the device is off. */
const atRest = (
  name: string,
  refused: DeviceAttack['refused'],
  make: (scene: DeviceScene, file: Uint8Array, version: string) => Uint8Array,
  checksum = true,
): DeviceAttack => ({
  name: `tampered store: ${name}`,
  refused,
  reboots: true,
  run: async (scene) => {
    const { repository } = scene
    await scene.honestOrder(repository.release(SERVICE, '1.0.0'))
    const version = repository.mapped('1.0.0')
    const path = join(scene.stateDir, 'bundles', SERVICE, `${version}.offbox`)
    const between = async () => {
      const files = new AtomicFiles()
      if (!checksum) return await writeFile(path, make(scene, new Uint8Array(await readFile(path)), version))
      await files.write(path, make(scene, (await files.read(path)) ?? new Uint8Array(), version))
    }
    await boot(scene, { between })
    return await refusedStart(scene)
  },
})

const STORED: readonly DeviceAttack[] = [
  {
    name: 'tampered store: one copy rotted, then an old repository',
    refused: ['TRUST_ROLLBACK'],
    reboots: true,
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      scene.enroller = scene.silent
      await boot(scene, { between: async () => await rot(join(storeOf(scene), 'a')) })
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'tampered store: one copy set back to an older one',
    refused: ['TRUST_ROLLBACK'],
    reboots: true,
    run: async (scene) => {
      const { repository } = scene
      const path = repository.release(SERVICE, '1.0.0')
      await scene.honestOrder(path)
      const [old, copy] = [repository.pushSince(1), join(storeOf(scene), 'a')]
      const older = await readFile(copy)
      await scene.honestOrder(repository.release(SERVICE, '1.1.0'))
      scene.enroller = scene.silent
      await boot(scene, { between: async () => await writeFile(copy, older) })
      return await scene.order(path, old)
    },
  },
  {
    name: 'tampered store: the metadata of somebody else in both copies, checksums and all, then an old repository',
    refused: ['TRUST_UNAVAILABLE'],
    why: /witness/,
    heldBy: 'witness',
    reboots: true,
    run: async (scene) => {
      const { old, oldPath } = await movedOn(scene)
      const stranger = scene.stranger()
      const between = async () => {
        const files = new AtomicFiles()
        for (const name of COPY_NAMES) {
          const { documents } = unpackRecord((await files.read(join(storeOf(scene), name))) ?? new Uint8Array())
          const file = (role: string) => stranger.file(`${stranger.roles[role].version}.${role}.json`)
          const targets = new Map([...documents.targets, ['targets', file('targets')] as const])
          const forged = { roots: [], timestamp: stranger.file('timestamp.json'), snapshot: file('snapshot'), targets }
          await files.write(join(storeOf(scene), name), packRecord({ documents: forged, statement: null, policy: stranger.policyBytes }))
        }
      }
      scene.enroller = scene.silent
      await boot(scene, { between })
      return await scene.order(oldPath, old)
    },
  },
  {
    name: 'tampered store: another policy in both copies, checksums and all',
    refused: ['POLICY_DENIED'],
    why: /there is no policy/,
    reboots: true,
    run: async (scene) => {
      const between = async () => {
        const files = new AtomicFiles()
        for (const name of COPY_NAMES) {
          const record = unpackRecord((await files.read(join(storeOf(scene), name))) ?? new Uint8Array())
          const policy = Buffer.from(record.policy ?? new Uint8Array())
            .toString()
            .replace('"worker"', '"worker", "process"')
          await files.write(join(storeOf(scene), name), packRecord({ ...record, policy: new Uint8Array(Buffer.from(policy)) }))
        }
      }
      scene.enroller = scene.silent
      await boot(scene, { between })
      return await refusedStart(scene)
    },
  },
  atRest('a bit of the code that is to run', ['STORE_CORRUPT', 'BUNDLE_CORRUPT'], (_, file) => flipBit(file, -5), false),
  atRest('a bit of the code that is to run, checksum and all', ['BUNDLE_CORRUPT'], (_, file) => flipBit(file, -5)),
  atRest('code of a stranger in the place of what is to run, checksum and all', ['BUNDLE_UNTRUSTED'], (_, __, version) =>
    makeBundle(makeKey(), { name: SERVICE, version }, CODE),
  ),
  atRest('a signed bundle of another version in the place of what is to run, checksum and all', ['STORE_CORRUPT'], ({ repository }) =>
    repository.bundle(SERVICE, '0.0.1'),
  ),
  atRest('a signed bundle of another service in the place of what is to run, checksum and all', ['STORE_CORRUPT'], ({ repository }, _, version) =>
    repository.bundle('routing', version),
  ),
]

/** Enrolment is a way in as well: whoever answers there hands over metadata. */
const ENROLLED: readonly DeviceAttack[] = [
  {
    name: 'reboot of a diskless device: an old repository as the answer to its enrolment',
    refused: ['TRUST_ROLLBACK'],
    // The roots are those of its owners, and what the witness has seen it believes.
    keeps: ['root', 'snapshot'],
    reboots: true,
    run: async (scene) => {
      const { old } = await movedOn(scene)
      scene.enroller = scene.stale(old)
      await boot(scene, diskless())
      const { code, error } = await scene.setUp(async () => await scene.agent.line(({ msg }) => msg === 'the enrolment brought what is refused'))
      if (isErrorCode(code)) throw new OffboxError(code, String(error))
    },
  },
  {
    name: 'stolen controller: a repository of his own as the answer to an enrolment',
    refused: ['TRUST_THRESHOLD'],
    reboots: true,
    run: async (scene) => {
      scene.enroller = scene.stale(scene.stranger().pushSince(1))
      await boot(scene, {})
      const { code, error } = await scene.setUp(async () => await scene.agent.line(({ msg }) => msg === 'the enrolment brought what is refused'))
      if (isErrorCode(code)) throw new OffboxError(code, String(error))
    },
  },
]

/** What its owners published eight days ago, and expired yesterday; nothing else is wrong with it. */
async function expired(scene: DeviceScene): Promise<unknown> {
  const { repository } = scene
  repository.madeAtMs = Date.now() - 8 * DAY_MS
  const path = repository.release(SERVICE, '1.1.0')
  return await scene.order(path)
}

const CLOCKS: readonly DeviceAttack[] = [
  {
    name: 'clock: a year back, to revive what expired',
    refused: ['TRUST_EXPIRED'],
    heldBy: 'wall-clock',
    keeps: ['snapshot'],
    reboots: true,
    run: async (scene) => {
      scene.enroller = scene.silent
      await boot(scene, { clockShiftMs: -YEAR_MS })
      await scene.honestOrder(scene.repository.release(SERVICE, '1.0.0'))
      return await expired(scene)
    },
  },
  {
    name: 'clock: a year back, and the repository as it was a year ago on a diskless device',
    refused: ['TRUST_EXPIRED', 'TRUST_ROLLBACK'],
    // It begins with the root of its image: newer ones are its owners' own.
    keeps: ['root', 'snapshot'],
    reboots: true,
    run: async (scene) => {
      await scene.shown()
      scene.enroller = scene.stale({ files: [] })
      await boot(scene, { clockShiftMs: -YEAR_MS, diskless: true })
      scene.repository.madeAtMs = Date.now() - YEAR_MS
      return await scene.order(scene.repository.release(SERVICE, '1.0.0'), scene.repository.pushSince(1))
    },
  },
  {
    name: 'clock: a year ahead, which expires nothing that is fresh, and revives nothing',
    refused: ['TRUST_EXPIRED'],
    keeps: ['snapshot'],
    reboots: true,
    run: async (scene) => {
      await boot(scene, { clockShiftMs: YEAR_MS })
      await scene.honestOrder(scene.repository.release(SERVICE, '1.0.0'))
      return await expired(scene)
    },
  },
  {
    name: 'clock: a year ahead, and the word of the witness recorded before',
    refused: ['WITNESS_UNTRUSTED'],
    reboots: true,
    run: async (scene) => {
      const recorded = await scene.forged({ timeMs: Date.now() + YEAR_MS })
      await boot(scene, { clockShiftMs: YEAR_MS })
      await scene.forged({})
      return await scene.attest(recorded)
    },
  },
]

export const STORES: readonly DeviceAttack[] = [...FORGOTTEN, ...STORED, ...ENROLLED, ...CLOCKS]
