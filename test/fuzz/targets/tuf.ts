/** TUF metadata by the file: what is parsed before any signature is checked, and the store that keeps it. */
import { createHash } from 'node:crypto'
import { packRecord, recordBytesMax, unpackRecord } from '../../../agent/trust/tuf/record.ts'
import { depthOf } from '../../../core/json-depth.ts'
import type { VerifiedBytes } from '../../../core/signing.ts'
import { readHeights } from '../../../core/trust/heights.ts'
import { parseStatement, readStatement, type Statement } from '../../../core/trust/statement.ts'
import { parseBounded } from '../../../core/tuf/bounded-json.ts'
import { canonicalJson } from '../../../core/tuf/canonical-json.ts'
import { TUF_LIMITS } from '../../../core/tuf/limits.ts'
import { fileName, parseFileName } from '../../../core/tuf/metadata.ts'
import { expiresAtMs, parseMetadata } from '../../../core/tuf/profile.ts'
import { filesOf } from '../../../core/tuf/push.ts'
import { makeKey, Repository } from '../../agent/trust/tuf/repository.ts'
import { holds, jsonBytes, type Target } from '../target.ts'

/** As a fleet publishes it: a rotated root, two services. */
export function published(): Repository {
  const repository = new Repository()
  repository.release('telemetry', '1.0.0')
  repository.release('routing', '2.1.0')
  repository.rotate('timestamp')
  repository.publish('timestamp')
  return repository
}

const repository = published()
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const depthIn = (value: unknown): number => (typeof value === 'object' && value !== null ? 1 + Math.max(0, ...Object.values(value).map(depthIn)) : 0)

function metadataTarget(role: string, file: string): Target {
  return {
    name: `tuf-${role}`,
    reads: `core/tuf/profile.ts parseMetadata, any bytes as ${role}.json`,
    seeds: () => [repository.file(file)],
    codes: ['TRUST_MALFORMED'],
    inputBytesMax: 64 * 1024,
    run: (input) => {
      const { signed, signatures } = parseMetadata(input, role)
      holds(depthIn({ signed }) <= TUF_LIMITS.depthMax, 'deeper than the limit')
      holds(Number.isFinite(expiresAtMs(signed)) && signatures.length <= TUF_LIMITS.signaturesMax, 'no time of its end, or too many signatures')
      return true
    },
  }
}

const push = repository.push()
const packPush = (files: readonly { name: string; bytes: Uint8Array }[]) => jsonBytes(files.map(({ name, bytes }) => [name, bytes.length]))

const statement = {
  fleet: 'lab',
  nonce: 'ab'.repeat(32),
  heights: { root: 2, keys: 'cd'.repeat(32), timestamp: 5, snapshot: 4, targets: { targets: 3 } },
  timeMs: 1_767_225_600_000,
}
const witness = makeKey()
const witnessId = sha256(witness.publicKey)
const statementSigned = (bytes: Uint8Array) => ({
  statement: bytes,
  keyId: witnessId,
  signature: witness.sign(new Uint8Array(Buffer.concat([Buffer.from('offbox.witness.v1\0'), bytes]))),
})

const record = {
  documents: {
    roots: [repository.file('2.root.json')],
    timestamp: repository.file('timestamp.json'),
    snapshot: null,
    targets: new Map([['targets', repository.anchor]]),
  },
  statement: statementSigned(jsonBytes(statement)),
}

function checkStatement({ heights, timeMs, nonce }: Statement): void {
  holds(Number.isSafeInteger(timeMs) && Buffer.from(nonce, 'hex').length === 32 && (heights === null || readHeights(heights) !== null), 'not of its shape')
}

export const tufTargets: readonly Target[] = [
  metadataTarget('root', '2.root.json'),
  metadataTarget('timestamp', 'timestamp.json'),
  metadataTarget('snapshot', fileName('snapshot', repository.roles['snapshot'].version)),
  metadataTarget('targets', fileName('targets', repository.roles['targets'].version)),
  metadataTarget('service-telemetry', fileName('service-telemetry', repository.roles['service-telemetry'].version)),
  {
    name: 'bounded-json',
    reads: 'core/tuf/bounded-json.ts parseBounded and core/json-depth.ts depthOf, any bytes',
    seeds: () => [jsonBytes({ a: [{ b: 'text \\" {[' }, [[[]]]], c: {} }), jsonBytes([[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]])],
    codes: ['TRUST_MALFORMED'],
    inputBytesMax: 128 * 1024,
    run: (input) => {
      const value = parseBounded(input, 64 * 1024, 'the input')
      // Less than was told where a name came twice: the last one counts.
      holds(depthIn(value) <= depthOf(input) && depthOf(input) <= TUF_LIMITS.depthMax, 'deeper than was told')
      return true
    },
  },
  {
    name: 'canonical-json',
    reads: 'core/tuf/canonical-json.ts canonicalJson, any JSON value',
    seeds: () => [repository.file('2.root.json'), jsonBytes({ b: ['é"\\\n', -5, null, true], a: {} })],
    codes: ['TRUST_MALFORMED'],
    declared: (error) => error instanceof SyntaxError,
    form: 'json',
    inputBytesMax: 64 * 1024,
    run: (input) => {
      const value: unknown = JSON.parse(Buffer.from(input).toString('utf8'))
      const text = canonicalJson(value)
      // It differs from JSON only in control characters, which stand for themselves.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones
      const again: unknown = JSON.parse(text.replace(/[\u0000-\u001f]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`))
      holds(canonicalJson(again) === text, 'two values with one canonical form')
      return true
    },
  },
  {
    name: 'tuf-push',
    reads: 'core/tuf/push.ts filesOf, any names and lengths of files',
    seeds: () => [packPush(push.files)],
    codes: ['TRUST_MALFORMED'],
    declared: (error) => error instanceof SyntaxError,
    form: 'json',
    inputBytesMax: 16 * 1024,
    run: (input) => {
      const raw: unknown = JSON.parse(Buffer.from(input).toString('utf8'))
      const entries = Array.isArray(raw) ? raw.filter((one): one is [string, number] => Array.isArray(one) && typeof one[0] === 'string') : []
      const room = new Uint8Array(1024 * 1024)
      const files = filesOf({
        files: entries.map(([name, length]) => ({ name, bytes: room.subarray(0, Number.isSafeInteger(length) ? Math.abs(length) : 0) })),
      })
      for (const name of files.keys()) {
        const parsed = parseFileName(name)
        holds(parsed !== null && fileName(parsed.role, parsed.version) === name, 'a name that is not written like this')
      }
      return files.size > 0
    },
  },
  {
    name: 'statement',
    reads: 'core/trust/statement.ts readStatement, anything that a witness signed',
    seeds: () => [jsonBytes(statement), jsonBytes({ ...statement, heights: null })],
    codes: ['WITNESS_UNTRUSTED'],
    inputBytesMax: 1024,
    coverage: 'off',
    run: (input) => {
      checkStatement(readStatement(statementSigned(input), new Map([[witnessId, witness.publicKey]])))
      return true
    },
  },
  {
    name: 'statement-json',
    reads: 'core/trust/statement.ts parseStatement behind the check of the signature',
    seeds: () => [jsonBytes(statement), jsonBytes({ ...statement, heights: null })],
    codes: ['WITNESS_UNTRUSTED'],
    inputBytesMax: 32 * 1024,
    run: (input) => {
      checkStatement(parseStatement(input as VerifiedBytes))
      return true
    },
  },
  {
    name: 'trust-record',
    reads: 'agent/trust/tuf/record.ts unpackRecord and core/trust/documents.ts, any bytes with a right checksum',
    seeds: () => [packRecord(record), packRecord({ ...record, statement: null })],
    codes: ['STORE_CORRUPT'],
    inputBytesMax: 64 * 1024,
    run: (input) => {
      const again = packRecord(unpackRecord(input))
      holds(Buffer.compare(packRecord(unpackRecord(again)), again) === 0 && again.length <= recordBytesMax, 'a record that does not stay the same')
      return true
    },
  },
]
