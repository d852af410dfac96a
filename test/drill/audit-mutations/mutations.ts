/** What can be done to a log: each takes the lines of an export and gives those of a forged one. */
import { randomInt } from 'node:crypto'
import { hashOf, lineOf } from '../../../core/audit/record.ts'
import { signedLine } from '../../../core/audit/entries.ts'
import { checkpointBody, statementSignedBytes } from '../../../core/audit/statements.ts'
import { DEVICE, type Written } from './written.ts'

export interface Mutation {
  readonly name: string
  /** Index of a record's line; null: not at this one. */
  forge(log: Written, at: number): readonly Buffer[] | null
}

export const isRecord = (line: Buffer): boolean => line.subarray(0, 12).toString('latin1') === '{"sequence":'
const field = (line: Buffer) => JSON.parse(line.toString('latin1')) as Record<string, unknown>
const splice = (lines: readonly Buffer[], at: number, remove: number, ...add: Buffer[]) => [...lines.slice(0, at), ...add, ...lines.slice(at + remove)]

function flip(bit: (line: Buffer) => number): Mutation['forge'] {
  return ({ lines }, at) => {
    const line = Buffer.from(lines[at] as Buffer)
    const where = bit(line)
    line[where >> 3] = (line[where >> 3] as number) ^ (1 << (where & 7))
    // A flipped bit may make a line feed, and so two lines of one.
    const parts: Buffer[] = []
    let from = 0
    for (let end = line.indexOf(10); end >= 0; end = line.indexOf(10, from)) {
      parts.push(line.subarray(from, end))
      from = end + 1
    }
    return splice(lines, at, 1, ...parts, line.subarray(from))
  }
}

/** Another record of the same number, and everything behind it chained anew; signed anew by a thief of the device's key, who has not the collector's. */
function fork({ lines, sign, chainPem }: Written, at: number): Buffer[] {
  const forged = lines.slice(0, at)
  let hash = ''
  let sequence = 0
  let chain = ''
  for (const line of forged.filter(isRecord)) {
    hash = hashOf(line)
    sequence += 1
    if (sequence === 1) chain = hash
  }
  for (const line of lines.slice(at)) {
    if (isRecord(line)) {
      const { sequence: number, previous, ...event } = field(line)
      if (number === sequence + 1 && forged.length === at) event['principal'] = 'spiffe://lab/operator/somebody-else'
      const next = Buffer.from(lineOf(sequence + 1, hash, JSON.stringify(event).slice(1)), 'latin1')
      hash = hashOf(next)
      sequence += 1
      if (sequence === 1) chain = hash
      forged.push(next)
    } else if (line.subarray(0, 14).toString('latin1') === '{"checkpoint":') {
      const body = checkpointBody({ deviceId: DEVICE, chain, sequence, hash, bootId: 'x', atMs: Date.now() })
      forged.push(Buffer.from(signedLine('checkpoint', { body, signature: sign(statementSignedBytes('checkpoint', body)), chainPem })))
    } else forged.push(line)
  }
  // Who forges the first record has to forge what the log is called as well.
  return forged.map((line) => (line.includes('"chapter":') ? Buffer.from(line.toString().replace(/"chain":"[0-9a-f]{64}"/, `"chain":"${chain}"`)) : line))
}

/** Cut behind a record, with a checkpoint of the stolen key where it ends; `head` puts the collector's genuine head behind it. */
function cut({ lines, sign, chainPem }: Written, at: number, head: boolean): readonly Buffer[] | null {
  const kept = lines.slice(0, at + 1)
  const records = kept.filter(isRecord)
  if (!lines.slice(at + 1).some(isRecord)) return null
  const statement = {
    deviceId: DEVICE,
    chain: hashOf(records[0] as Buffer),
    sequence: records.length,
    hash: hashOf(kept[at] as Buffer),
    bootId: 'x',
    atMs: Date.now(),
  }
  const body = checkpointBody(statement)
  const checkpoint = signedLine('checkpoint', { body, signature: sign(statementSignedBytes('checkpoint', body)), chainPem })
  return [...kept, Buffer.from(checkpoint), ...(head ? [lines.at(-1) as Buffer] : [])]
}

export const MUTATIONS: readonly Mutation[] = [
  { name: 'flip the first bit', forge: flip(() => 0) },
  { name: 'flip the last bit', forge: flip((line) => line.length * 8 - 1) },
  { name: 'flip some bit', forge: flip((line) => randomInt(line.length * 8)) },
  {
    // Still a record, and still JSON: only the chain can tell.
    name: 'change who it was',
    forge: ({ lines }, at) => {
      const line = lines[at] as Buffer
      const forged = line.toString('latin1').replace(/"(principal|method)":"([^"]*)"/, (_, name, text) => `"${name}":"${text.slice(0, -1)}X"`)
      return splice(lines, at, 1, Buffer.from(forged, 'latin1'))
    },
  },
  { name: 'drop', forge: ({ lines }, at) => splice(lines, at, 1) },
  { name: 'insert a copy', forge: ({ lines }, at) => splice(lines, at + 1, 0, lines[at] as Buffer) },
  {
    name: 'insert one that follows',
    forge: ({ lines }, at) => {
      const { sequence, previous, ...event } = field(lines[at] as Buffer)
      const extra = lineOf((sequence as number) + 1, hashOf(lines[at] as Buffer), JSON.stringify({ ...event, was: previous }).slice(1))
      return splice(lines, at + 1, 0, Buffer.from(extra, 'latin1'))
    },
  },
  {
    name: 'swap with the next',
    forge: ({ lines }, at) => {
      const next = lines.findIndex((line, index) => index > at && isRecord(line))
      if (next < 0) return null
      const forged = [...lines]
      forged[at] = lines[next] as Buffer
      forged[next] = lines[at] as Buffer
      return forged
    },
  },
  { name: 'truncate', forge: (log, at) => cut(log, at, false) },
  { name: 'truncate before the head', forge: (log, at) => cut(log, at, true) },
  { name: 'fork', forge: fork },
]
