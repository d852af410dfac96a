/** Makes an input from others: a few changes to bytes, or to the value where it is JSON. */
import type { Random } from './random.ts'

/** Lengths, counts and text that readers trip over. */
const WORDS = [
  '__proto__',
  'constructor',
  'toString',
  'length',
  'null',
  '-1',
  '1e999',
  '\\ud800',
  '\u0000',
  '..',
  '{}',
  '[]',
  '""',
  'é',
  '\u2028',
  '*',
  '*a*a*a*a*a*a*a*a',
]
const NUMBERS = [0, 1, -1, -0, 0.5, 7, 8, 16, 64, 127, 128, 255, 256, 65_535, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 53 - 1, 2 ** 53, 1e21, -(2 ** 53)]
/** The parser takes long for large values, which bytes reach as well. */
const JSON_BYTES_MAX = 64 * 1024
const NEST_MAX = 40

export interface MutateOptions {
  /** Inputs to cross with; at least one. */
  readonly corpus: readonly Uint8Array[]
  readonly bytesMax: number
  /** It stays JSON. */
  readonly json?: boolean
}

export function mutate(random: Random, input: Uint8Array, { corpus, bytesMax, json = false }: MutateOptions): Uint8Array {
  let made = input
  const value = !json && random.chance(4) ? undefined : parse(input)
  if (value !== undefined) {
    const donor = parse(random.pick(corpus))
    const holder = { value }
    for (let times = 1 + random.below(random.chance(3) ? 6 : 2); times > 0; times--) mutateValue(random, holder, donor)
    const text = JSON.stringify(holder.value)
    made = new Uint8Array(Buffer.from(text ?? 'null'))
    if (json) return made.length <= bytesMax ? made : input
    if (!random.chance(8)) return made.subarray(0, bytesMax)
  }
  for (let times = 1 + random.below(random.chance(3) ? 16 : 3); times > 0; times--) made = mutateBytes(random, made, random.pick(corpus))
  return made.subarray(0, bytesMax)
}

function parse(input: Uint8Array): unknown {
  // "[" and "{": anything else is no message of ours.
  if (input.length > JSON_BYTES_MAX || (input[0] !== 0x7b && input[0] !== 0x5b)) return undefined
  try {
    return JSON.parse(Buffer.from(input).toString('utf8'))
  } catch {
    return undefined
  }
}

type Holder = Record<string | number, unknown>

/** Every place of a value, by its holder and key. */
function placesOf(root: Holder): [Holder, string | number][] {
  const places: [Holder, string | number][] = []
  const visit = (holder: Holder, depth: number): void => {
    for (const key of Object.keys(holder)) {
      places.push([holder, Array.isArray(holder) ? Number(key) : key])
      const inner = holder[key]
      if (typeof inner === 'object' && inner !== null && depth < 64 && places.length < 5_000) visit(inner as Holder, depth + 1)
    }
  }
  visit(root, 0)
  return places
}

/** Of JSON; without it a value could come to hold itself. */
function copyOf(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(copyOf)
  const copy: Record<string, unknown> = {}
  for (const key of Object.keys(value)) define(copy, key, copyOf((value as Holder)[key]))
  return copy
}

/** Also "__proto__" as a name like any other, as the parser does. */
function define(holder: Holder, key: string | number, value: unknown): void {
  if (key === '__proto__') Object.defineProperty(holder, key, { value, writable: true, enumerable: true, configurable: true })
  else holder[key] = value
}

function mutateValue(random: Random, root: Holder, donor: unknown): void {
  const [holder, key] = random.pick(placesOf(root))
  const old = holder[key]
  const place = (value: unknown) => define(holder, key, value)
  switch (random.below(10)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1)
      else if (holder !== root) delete holder[key]
      break
    case 1:
      if (Array.isArray(holder)) for (let times = random.below(random.chance(8) ? 600 : 4); times > 0; times--) holder.push(copyOf(old))
      else define(holder, rename(random, String(key)), copyOf(old))
      break
    case 2: {
      let nest = old
      for (let depth = random.below(NEST_MAX); depth > 0; depth--) nest = random.chance(2) ? [nest] : { [String(key)]: nest }
      place(nest)
      break
    }
    case 3: {
      const [other, at] = random.pick(placesOf(root))
      place(copyOf(other[at]))
      break
    }
    case 4:
      if (typeof donor !== 'object' || donor === null) break
      if (Object.keys(donor).length > 0) {
        const [other, at] = random.pick(placesOf(donor as Holder))
        place(copyOf(other[at]))
      }
      break
    case 5:
      if (typeof old === 'number') place(old + random.pick([1, -1, 0.5, old]))
      else place(random.pick(NUMBERS))
      break
    case 6:
    case 7:
      if (typeof old === 'string') place(mutateText(random, old))
      else place(random.pick([null, true, false, '', [], {}, [[]], { length: 3 }]))
      break
    case 8:
      place(random.pick(WORDS))
      break
    default:
      place(random.pick([null, true, false, '', [], {}, random.pick(NUMBERS)]))
  }
}

function rename(random: Random, key: string): string {
  return random.chance(2) ? random.pick(WORDS) : mutateText(random, key)
}

function mutateText(random: Random, text: string): string {
  const at = random.below(text.length + 1)
  switch (random.below(6)) {
    case 0:
      return text.slice(0, at)
    case 1:
      return text.slice(0, at) + random.pick(WORDS) + text.slice(at)
    case 2:
      return text.slice(0, at) + String.fromCharCode(random.below(random.chance(4) ? 65_536 : 128)) + text.slice(at + 1)
    case 3:
      return text.slice(at) + text.slice(0, at)
    case 4:
      return text.repeat(1 + random.below(random.chance(8) ? 200 : 4)).slice(0, 20_000)
    default:
      return text.slice(0, at) + text.slice(at).replace(/\d+/, (digits) => String(Number(digits) + random.pick([1, -1, 1e9])))
  }
}

function mutateBytes(random: Random, bytes: Uint8Array, donor: Uint8Array): Uint8Array {
  const at = random.below(bytes.length + 1)
  const copy = bytes.slice()
  switch (random.below(10)) {
    case 0:
      if (at < copy.length) copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8))
      return copy
    case 1:
      if (at < copy.length) copy[at] = random.below(256)
      return copy
    case 2:
      return copy.subarray(0, at)
    case 3:
      return joined(copy.subarray(0, at), copy.subarray(Math.min(copy.length, at + 1 + random.below(16))))
    case 4:
      return joined(copy.subarray(0, at), Buffer.from(random.pick(WORDS)), copy.subarray(at))
    case 5: {
      const from = random.below(copy.length)
      return joined(copy.subarray(0, at), copy.subarray(from, from + random.below(random.chance(8) ? 4_096 : 64)), copy.subarray(at))
    }
    case 6: {
      // Where a length may stand: most are four bytes, big-endian.
      if (at + 4 <= copy.length) new DataView(copy.buffer).setUint32(at, random.chance(2) ? random.pick(NUMBERS) : random.below(copy.length * 2))
      return copy
    }
    case 7: {
      const from = random.below(donor.length)
      return joined(copy.subarray(0, at), donor.subarray(from, from + random.below(256)), copy.subarray(at))
    }
    default:
      return joined(
        copy.subarray(0, at),
        new Uint8Array(random.below(random.chance(8) ? 2_048 : 16)).fill(random.pick([0, 0x5b, 0x7b, 0x20, 0xff])),
        copy.subarray(at),
      )
  }
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts))
}
