/** Readers that are broken on purpose, for the test of the fuzzer itself. */
import { OffboxError } from '../../core/errors.ts'
import { holds, textBytes, type Target } from './target.ts'

export type Planted = 'throws' | 'wrong-code' | 'accepts-too-much' | 'hangs' | 'works-too-much' | 'fills-heap' | 'fills-buffers' | 'deep'

/** Kept, so that nothing collects it. */
const kept: unknown[] = []

/** @param run told the first byte of the input */
function broken(name: Planted, run: (first: number, input: Uint8Array) => void): Target {
  return {
    name,
    reads: 'nothing: it is broken on purpose',
    seeds: () => [textBytes('a harmless input')],
    codes: ['ARGUMENT_INVALID'],
    inputBytesMax: 64,
    run: (input) => {
      run(input[0] ?? 0, input)
      return true
    },
  }
}

const MARK = 0x21

/** Six bytes, each in an eighth of its own: one branch after the other, so that coverage tells of each that is right. */
function reach(_: number, [one = 0, two = 0, three = 0, four = 0, five = 0, six = 0]: Uint8Array): void {
  if (one >> 5 !== 7) return
  kept.length = 0
  if (two >> 5 !== 0) return
  kept.length = 0
  if (three >> 5 !== 2) return
  kept.length = 0
  if (four >> 5 !== 4) return
  kept.length = 0
  if (five >> 5 !== 1) return
  kept.length = 0
  if (six >> 5 === 5) throw new TypeError('reached')
}

export const TARGETS: readonly Target[] = [
  broken('throws', (first) => {
    if (first === MARK) (null as unknown as { field: { field: number } }).field.field += 1
  }),
  broken('wrong-code', (first) => {
    throw new OffboxError(first === MARK ? 'STORE_FULL' : 'ARGUMENT_INVALID', 'refused')
  }),
  broken('accepts-too-much', (first) => holds(first !== MARK, 'it should not be accepted')),
  broken('hangs', (first) => {
    while (first === MARK) kept.length = 0
  }),
  broken('works-too-much', (first) => {
    let sum = 0
    for (let round = 0; round < (first === MARK ? 300_000 : 1); round++) if (round % 3 === 0) sum += round
    kept.splice(0, 1, sum)
  }),
  broken('fills-heap', (first) => {
    while (first === MARK) kept.push({ one: kept.length })
  }),
  broken('fills-buffers', (first) => {
    if (first === MARK) kept.splice(0, 1, Buffer.alloc(160 * 1024 * 1024, 1))
  }),
  { ...broken('deep', reach), seeds: () => [textBytes('zzzzzz')] },
]

export function planted(name: Planted): Target {
  const found = TARGETS.find((one) => one.name === name)
  if (!found) throw new Error(`no ${name}`)
  return found
}
