/** What lies on a device's disk: the checksum keeps rot out, and whoever writes to the disk can make it right. */
import { crc32 } from 'node:zlib'
import { Journal } from '../../../agent/change/journal.ts'
import { CHANGE_STATES } from '../../../agent/change/change.ts'
import { Receipts } from '../../../agent/change/receipts.ts'
import type { ChangeRecord } from '../../../agent/change/types.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { type Active, BundleStore } from '../../../agent/trust/store.ts'
import { type ErrorCode, OffboxError } from '../../../core/errors.ts'
import { checkPolicy, formatPolicy, policyVerdict, policyBytesMax } from '../../../core/policy.ts'
import { readReceipt } from '../../../core/receipt.ts'
import { parseBounded } from '../../../core/tuf/bounded-json.ts'
import { record } from '../../agent/change/record.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { FakeFileSystem } from '../../fakes/file-system.ts'
import { holds, jsonBytes, type Target } from '../target.ts'
import { POLICY } from './repository-model.ts'

const fieldsOf = (value: unknown) =>
  Object.entries(typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {})
const parsed = (input: Uint8Array): Record<string, unknown> => Object.fromEntries(fieldsOf(JSON.parse(Buffer.from(input).toString('utf8'))))
const syntaxError = (error: unknown) => error instanceof SyntaxError

/** Files by name, sealed as the agent does it. Names are cut to what a file can be called. */
async function diskOf(files: readonly (readonly [name: string, content: unknown])[], directory: string): Promise<FakeFileSystem> {
  const disk = new FakeFileSystem()
  const atomic = new AtomicFiles(disk)
  for (const [name, content] of files.slice(0, 16)) {
    if (/^[a-z0-9._-]{1,60}$/.test(name)) await atomic.writeJson(`${directory}/${name}`, content ?? null)
  }
  return disk
}

/** One of several answers that only some contents forbid. */
async function either<T>(act: Promise<T>, ...codes: ErrorCode[]): Promise<T | null> {
  return await act.catch((error: unknown) => {
    if (error instanceof OffboxError && codes.includes(error.code)) return null
    throw error
  })
}

function checkActive(active: Active | null): void {
  if (!active) return
  holds(typeof active.version === 'string' && /^\d+\.\d+\.\d+[0-9A-Za-z.+-]*$/.test(active.version), 'a note that names no version')
  holds(typeof active.changeId === 'string', 'a note that names no change')
}

function checkRecord(change: ChangeRecord): void {
  const { state, steps, settled, receipt, service, kind } = change
  holds(CHANGE_STATES.includes(state) && typeof settled === 'boolean', 'a change without a state')
  holds(typeof service === 'string' && typeof kind === 'string' && typeof receipt === 'string', 'a change without a name')
  holds(Array.isArray(steps) && steps.every((one) => typeof one?.step === 'string' && Number.isFinite(one.atMs)), 'a change whose steps are none')
  for (const name of ['from', 'to', 'author', 'reason', 'error'] as const) holds(typeof change[name] === 'string', `a change whose ${name} is no text`)
  for (const name of ['proposedAtMs', 'bakeMs', 'confirmTimeoutMs', 'provisionalAtMs', 'confirmDeadlineMs', 'heldMs', 'heldCalls'] as const) {
    holds(Number.isFinite(change[name]), `a change whose ${name} is no number`)
  }
}

const CHANGE = 'c-0000000001'
const note = { version: '1.0.0', config: { interval: 5 }, changeId: CHANGE }
const open = record({ state: 'provisional', settled: false, plan: { manifests: { from: '', to: 'ab'.repeat(32) } } })
const body = {
  ...{ format: 'offbox.receipt.v1', deviceId: 'd', sequence: 1, previous: '', changeId: CHANGE, kind: 'upgrade', service: 'a', from: '', to: '1.0.0' },
  ...{
    manifests: { from: '', to: '' },
    outcome: 'confirmed',
    reason: '',
    error: '',
    author: 'x',
    heldMs: 0,
    heldCalls: 0,
    steps: [{ step: 'staged', atMs: 1 }],
  },
  ...{ proposedAtMs: 0, endedAtMs: 1, endedMonotonicMs: 1, bootId: 'b' },
}
const receipt = (content: object) => ({ body: JSON.stringify(content), signature: Buffer.alloc(64, 1).toString('base64'), chainPem: 'PEM' })

export const storeTargets: readonly Target[] = [
  {
    name: 'sealed-file',
    reads: 'agent/store/atomic.ts AtomicFiles.read and readJson, any bytes on the disk',
    seeds: () => [new Uint8Array(Buffer.from(`OFFBOXS\x01${'\0'.repeat(32)}{"a":1}`, 'latin1'))],
    codes: ['STORE_CORRUPT'],
    inputBytesMax: 64 * 1024,
    run: async (input) => {
      const disk = new FakeFileSystem()
      await disk.makeDirectory('/state')
      await disk.create('/state/file', input)
      const files = new AtomicFiles(disk)
      await files.readJson('/state/file').finally(async () => {
        holds((await files.readJson('/state/file').catch(() => null)) === null || disk.paths().includes('/state/file'), 'a file that is used and set aside')
      })
      return true
    },
  },
  {
    name: 'bundle-store',
    reads: 'agent/trust/store.ts BundleStore, any notes with a right checksum; every operation on them',
    seeds: () => [
      jsonBytes({ active: note, [`candidate-${CHANGE}`]: { ...note, version: '1.1.0' } }),
      jsonBytes({
        active: { ...note, changeId: 'c-0000000000' },
        'last-good': { ...note, version: '0.9.0' },
        '1.0.0.offbox': 'x',
        [`candidate-${CHANGE}`]: note,
      }),
    ],
    codes: [],
    declared: syntaxError,
    form: 'json',
    inputBytesMax: 16 * 1024,
    run: async (input) => {
      const disk = await diskOf(fieldsOf(parsed(input)), '/state/bundles/a')
      const store = new BundleStore(new AtomicFiles(disk), '/state', () => new Map())
      await store.services()
      for (const read of [store.active('a'), store.lastGood('a'), store.candidate('a', CHANGE)]) checkActive(await either(read, 'STORE_CORRUPT'))
      const active = await either(store.active('a'), 'STORE_CORRUPT')
      if (active) await either(store.load('a', active.version), 'STORE_CORRUPT', 'BUNDLE_NOT_FOUND', 'BUNDLE_MALFORMED', 'BUNDLE_UNTRUSTED')
      await either(store.commit('a', CHANGE), 'STORE_CORRUPT')
      checkActive(await either(store.active('a'), 'STORE_CORRUPT'))
      await either(store.collect('a'), 'STORE_CORRUPT')
      await store.dropAll('a')
      await store.forget('a')
      holds(
        disk.paths().every((path) => !path.startsWith('/state/bundles/a/')),
        'something of a forgotten service stays',
      )
      return active !== null
    },
  },
  {
    name: 'journal',
    reads: 'agent/change/journal.ts Journal.load, any records with a right checksum and any steps with theirs',
    seeds: () => [
      jsonBytes({
        records: { [CHANGE]: open, 'c-0000000002': record({ id: 'c-0000000002' }) },
        steps: [
          [0, { step: 'proposed', atMs: 0 }],
          [1, { step: 'staged', atMs: 3.5, detail: 'x' }],
        ],
      }),
    ],
    codes: [],
    declared: syntaxError,
    form: 'json',
    inputBytesMax: 16 * 1024,
    run: async (input) => {
      const { records, steps } = parsed(input)
      const disk = await diskOf(fieldsOf(records), '/state/changes')
      const lines = (Array.isArray(steps) ? steps : [steps])
        .map((one) => JSON.stringify(one ?? null))
        .map((text) => `${crc32(text).toString(16).padStart(8, '0')} ${text}\n`)
      await new AtomicFiles(disk).append(`/state/changes/${CHANGE}.steps`, Buffer.from(lines.join('')), { durable: false })
      const journal = new Journal(new AtomicFiles(disk), '/state/changes', () => {})
      const loaded = await journal.load()
      for (const change of loaded) checkRecord(change)
      holds(/^c-\d{10,}$/.test(journal.nextId()), 'an id that is none')
      return loaded.length > 0
    },
  },
  {
    name: 'receipts',
    reads: 'agent/change/receipts.ts Receipts, any files with a right checksum: load, list, look up, add',
    seeds: () => [
      jsonBytes({ [`r-0000000001-${CHANGE}`]: receipt(body), 'r-0000000002-c-0000000002': receipt({ ...body, sequence: 2, changeId: 'c-0000000002' }) }),
    ],
    codes: [],
    declared: syntaxError,
    form: 'json',
    inputBytesMax: 16 * 1024,
    run: async (input) => {
      const disk = await diskOf(fieldsOf(parsed(input)), '/state/receipts')
      const sign = (bytesFor: (deviceId: string) => Uint8Array) => {
        bytesFor('d')
        return { signature: new Uint8Array(64), chainPem: '' }
      }
      const log = { error: () => {} }
      const receipts = new Receipts({ files: new AtomicFiles(disk), directory: '/state/receipts', clock: new FakeClock(), bootId: 'b', sign, log })
      await receipts.load()
      const all = await receipts.list({ service: '', before: 0, most: 100 })
      for (const one of all) holds(one.signature.length === 64 && typeof one.chainPem === 'string', 'a receipt without a signature or a key')
      const some = await receipts.list({ service: 'a', before: 0, most: 100 })
      holds(some.length <= all.length && some.every((one) => readReceipt(one.body).service === 'a'), 'receipts of another service')
      await either(receipts.of(CHANGE), 'RECEIPT_NOT_FOUND')
      holds((await receipts.give(record({ id: 'c-0000000009' }))).length === 64, 'no receipt is made')
      return all.length > 0
    },
  },
  {
    name: 'receipt',
    reads: 'core/receipt.ts readReceipt, any body',
    seeds: () => [jsonBytes(body)],
    codes: ['ARGUMENT_INVALID'],
    inputBytesMax: 64 * 1024,
    run: (input) => {
      const { steps, manifests, sequence } = readReceipt(input)
      holds(steps.every(({ step, atMs }) => typeof step === 'string' && Number.isFinite(atMs)) && typeof manifests.to === 'string', 'steps that are none')
      holds(Number.isFinite(sequence), 'no number')
      return true
    },
  },
  {
    name: 'policy',
    reads: 'core/policy.ts checkPolicy and policyVerdict, any bytes that the targets name',
    seeds: () => [jsonBytes(POLICY), formatPolicy({ version: 7, services: { a: { keys: [], capabilities: [], tiers: [] } } })],
    codes: ['TRUST_MALFORMED'],
    inputBytesMax: 80 * 1024,
    run: (input) => {
      const policy = checkPolicy(parseBounded(input, policyBytesMax, 'the policy'))
      const subject = { keyIds: ['ab'.repeat(32)], capabilities: ['proc'], tier: 'worker' } as const
      for (const service of ['telemetry', '__proto__', 'constructor']) {
        const verdict = policyVerdict(policy, { service, ...subject })
        holds(verdict !== null || Object.hasOwn(policy.services, service), 'a service may run that the policy does not name')
      }
      holds(
        Buffer.compare(formatPolicy(checkPolicy(parseBounded(formatPolicy(policy), policyBytesMax, 'it'))), formatPolicy(policy)) === 0,
        'it reads differently',
      )
      return true
    },
  },
]
