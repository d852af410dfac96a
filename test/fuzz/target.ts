/** One reader under test: what goes in, what it may answer, and what must hold of what it accepts. */
import { type ErrorCode, OffboxError } from '../../core/errors.ts'

export interface Target {
  /** For the command line, e.g. "bundle". */
  readonly name: string
  /** Which reader, and how it is reached. */
  readonly reads: string
  /** Well-formed inputs, from which others are made. At least one. */
  seeds(): readonly Uint8Array[]
  /** Codes that the reader's contract names. Any other throw is a crash, INTERNAL and other codes of the table among them. */
  readonly codes: readonly ErrorCode[]
  /** Throws that the contract declares beside these codes. */
  readonly declared?: (error: unknown) => boolean
  /**
   * One execution; leaves nothing behind that another could see.
   * @returns whether the input was accepted
   * @throws Broken the reader accepted it and should not have, or made something else of it; whatever the reader throws
   */
  run(input: Uint8Array): boolean | Promise<boolean>
  /** Largest input, bytes: at least what the reader itself calls its limit, where that is affordable. */
  readonly inputBytesMax: number
  /** "json": other bytes never come to the reader, so that they are not tried. */
  readonly form?: 'json'
  /** One execution takes milliseconds: the short run in the tests has fewer of them. */
  readonly costly?: true
  /** Left out: guided. "off" where counting blocks would cost more than it finds: tweetnacl is a tenth as fast then. */
  readonly coverage?: 'off'
}

/** What a reader promises does not hold. */
export class Broken extends Error {}

/** How one execution ended: "accepted", the code of its refusal, or "declared" for another declared throw. */
export type Outcome = string

/** @throws Crash */
export async function execute(target: Target, input: Uint8Array): Promise<Outcome> {
  try {
    const result = target.run(input)
    return (typeof result === 'boolean' ? result : await result) ? 'accepted' : 'ignored'
  } catch (error) {
    if (error instanceof OffboxError && target.codes.includes(error.code)) return error.code
    if (!(error instanceof Broken) && target.declared?.(error)) return 'declared'
    throw new Crash(target.name, input, error)
  }
}

/** An execution that ended as no contract allows. */
export class Crash extends Error {
  readonly target: string
  readonly input: Uint8Array
  constructor(target: string, input: Uint8Array, cause: unknown) {
    super(`${target}: ${describe(cause)}`, { cause })
    this.target = target
    this.input = input
  }
}

/** Crashes with the same text are the same: class, message without numbers, and the first line of ours in the stack. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return `threw ${String(error).slice(0, 100)}`
  const place = error.stack?.split('\n').find((line) => /\/(core|agent|services|proto)\//.test(line) && !line.includes('node_modules'))
  const code = error instanceof OffboxError ? ` ${error.code}` : ''
  const at = /\/((?:core|agent|services|proto)\/[^)]*)/.exec(place ?? '')?.[1] ?? 'no place of ours'
  return `${error.constructor.name}${code}: ${error.message.slice(0, 200)} (${at})`
}

/** @throws Broken */
export function holds(condition: boolean, text: string): asserts condition {
  if (!condition) throw new Broken(text)
}

export const textBytes = (text: string) => new Uint8Array(Buffer.from(text, 'utf8'))
export const jsonBytes = (value: unknown) => textBytes(JSON.stringify(value))
