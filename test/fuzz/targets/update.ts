/** Whole pushes, signed by the right keys whatever they say, through the workflow of the client and onto a device's disk and back. */
import { createPublicKey, verify } from 'node:crypto'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { packRecord } from '../../../agent/trust/tuf/record.ts'
import { TufTrust } from '../../../agent/trust/tuf/tuf-trust.ts'
import { OffboxError } from '../../../core/errors.ts'
import { type Documents, NO_DOCUMENTS, NO_SOURCE, sourceOf } from '../../../core/trust/documents.ts'
import { isBelow } from '../../../core/trust/heights.ts'
import { DEVICE_RULES, keysFor, type MetadataRules } from '../../../core/trust/rules.ts'
import { Verification } from '../../../core/trust/verification.ts'
import { signedBytes } from '../../../core/tuf/canonical-json.ts'
import { publicKeyOf } from '../../../core/tuf/keys.ts'
import { filesOf } from '../../../core/tuf/push.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { holds, jsonBytes, type Target } from '../target.ts'
import { ANCHOR, MODEL, publish, PUBLISHED_MS, type PublishedModel } from './repository-model.ts'

/** The device's rules with the second lock by node:crypto alone, which is a hundred times faster than tweetnacl. */
const FAST_RULES: MetadataRules = {
  ...DEVICE_RULES,
  requireThreshold: (metadata, role, delegator) => {
    const { keys, of } = keysFor(role, delegator)
    const message = signedBytes(metadata.signed)
    const signers = new Set(of.keyids).values().filter((keyid) => {
      const sig = metadata.signatures.find((one) => one.keyid === keyid)?.sig
      if (!sig || !Object.hasOwn(keys, keyid)) return false
      const key = { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKeyOf(keyid, keys[keyid])).toString('base64url') }
      return verify(null, message, createPublicKey({ key, format: 'jwk' }), Buffer.from(sig, 'hex'))
    })
    if ([...signers].length < of.threshold) throw new OffboxError('TRUST_THRESHOLD', `too few keys of ${role} signed`)
  },
}

const CODES = ['TRUST_MALFORMED', 'TRUST_THRESHOLD', 'TRUST_ROLLBACK', 'TRUST_EXPIRED', 'TRUST_MISMATCH', 'TRUST_UNAVAILABLE', 'TRUST_UNLISTED'] as const

const newer = {
  ...MODEL,
  roots: [],
  targets: { ...MODEL.targets, version: 2, delegations: { ...MODEL.targets.delegations, roles: MODEL.targets.delegations.roles.slice(0, 1) } },
  snapshot: { ...MODEL.snapshot, version: 2 },
  timestamp: { ...MODEL.timestamp, version: 2 },
  paths: MODEL.paths.slice(0, 1),
}
const seeds = () => [jsonBytes(MODEL), jsonBytes(newer)]
const published = (input: Uint8Array) => publish(JSON.parse(Buffer.from(input).toString('utf8')))

function verification(stored: Documents, pushed: PublishedModel | null): Verification {
  const source = pushed ? sourceOf(filesOf(pushed.push)) : NO_SOURCE
  return new Verification({ anchor: ANCHOR, stored, source, nowMs: () => PUBLISHED_MS, rules: FAST_RULES })
}

async function openTrust(disk: FakeFileSystem, rules: MetadataRules): Promise<TufTrust> {
  const options = { stateDir: '/state', fleet: 'lab', anchor: ANCHOR, clock: new FakeClock(), buildTimeMs: PUBLISHED_MS, rules }
  return await TufTrust.open({ ...options, files: new AtomicFiles(disk), witness: { keys: new Map(), need: 'never' } })
}

const good = publish(MODEL)
/** A disk on which the first push was taken. */
const taken = new FakeFileSystem()
await (await openTrust(taken, FAST_RULES)).update(good.push, good.paths, good.policy)

function onADevice(name: string, rules: MetadataRules): Target {
  return {
    name,
    reads: `agent/trust/tuf TufTrust.update, a good push, then any that the right keys signed, then a restart${rules === DEVICE_RULES ? '; with tweetnacl' : ''}`,
    seeds,
    codes: CODES,
    declared: (error) => error instanceof SyntaxError,
    form: 'json',
    costly: true,
    inputBytesMax: 32 * 1024,
    ...(rules === DEVICE_RULES ? { coverage: 'off' as const } : {}),
    run: async (input) => {
      const { push, paths, policy } = published(input)
      const disk = taken.restarted('kill')
      const trust = await openTrust(disk, rules)
      let refusal: unknown = null
      const targets = await trust.update(push, paths, policy).catch((error: unknown) => {
        refusal = error
        return []
      })
      const after = await openTrust(disk, rules)
      holds(after.problems.length === 0, `what was stored is not believed after a restart: ${after.problems.join()}`)
      holds(!trust.heights || (after.heights !== null && !isBelow(after.heights, trust.heights)), 'a restart lowers what was seen')
      holds(Number.isFinite(after.expiresMs) && after.policy?.sha256 === trust.policy?.sha256, 'a restart changes what is known')
      for (const service of ['telemetry', 'routing']) holds(after.serviceKeys(service).size === trust.serviceKeys(service).size, 'a restart changes keys')
      if (refusal) throw refusal
      holds(targets.length === paths.length, 'not as many targets as were asked for')
      return targets.length > 0
    },
  }
}

export const updateTargets: readonly Target[] = [
  {
    name: 'tuf-update',
    reads: 'core/trust/verification.ts, any push signed by the right keys: refresh, then the search for targets',
    seeds,
    codes: CODES,
    declared: (error) => error instanceof SyntaxError,
    form: 'json',
    costly: true,
    inputBytesMax: 32 * 1024,
    run: async (input) => {
      const pushed = published(input)
      const first = verification(NO_DOCUMENTS, pushed)
      await first.refresh()
      for (const path of pushed.paths) {
        const target = await first.target(path)
        holds(!target || (target.path === path && target.length > 0 && /^[0-9a-f]{64}$/.test(target.hashes['sha256'] ?? '')), 'a target without length or hash')
      }
      const again = verification(first.documents, null)
      again.loadStored()
      holds(!isBelow(again.heights, first.heights) && !isBelow(first.heights, again.heights), 'stored documents are read as other heights')
      return true
    },
  },
  onADevice('trust-device', FAST_RULES),
  onADevice('trust-device-nacl', DEVICE_RULES),
  {
    name: 'trust-store',
    reads: 'agent/trust/tuf TufTrust.open, copies, record: a record with a right checksum in one copy, then an update',
    seeds: () => {
      const files = filesOf(good.push)
      const named = (role: string) => files.get(`1.${role}.json`) as Uint8Array
      const documents: Documents = {
        roots: [files.get('2.root.json') as Uint8Array],
        timestamp: files.get('timestamp.json') as Uint8Array,
        snapshot: named('snapshot'),
        targets: new Map(['targets', 'service-telemetry', 'service-routing'].map((role) => [role, named(role)])),
      }
      return [
        packRecord({ documents, statement: null, policy: good.policy }),
        packRecord({ documents: { ...documents, snapshot: null, roots: [] }, statement: null }),
      ]
    },
    codes: CODES,
    costly: true,
    inputBytesMax: 64 * 1024,
    run: async (input) => {
      const disk = new FakeFileSystem()
      await new AtomicFiles(disk).write('/state/trust/tuf/a', input)
      const trust = await openTrust(disk, FAST_RULES)
      holds(Number.isFinite(trust.expiresMs), 'no time of its end')
      const targets = await trust.update(good.push, good.paths, good.policy)
      holds(targets.length === good.paths.length && trust.policy !== null, 'a good push is taken without effect')
      return trust.problems.length === 0
    },
  },
]
