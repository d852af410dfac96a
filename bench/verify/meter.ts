/**
 * Where the time of a verification goes: the functions that do the work are wrapped, and each counts the time within itself but not within
 * another one. Everything has to run in this thread; Node's own modules see the wrapped
 * functions as well, and so does tuf-js.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module'
import type * as Crypto from 'node:crypto'
import nacl from 'tweetnacl'

export const PARTS = ['tweetnacl', 'node:crypto', 'sha256', 'parse'] as const
export type Part = (typeof PARTS)[number]

const spentMs: Record<Part, number> = { tweetnacl: 0, 'node:crypto': 0, sha256: 0, parse: 0 }
/** Time of wrapped functions within the one that runs. */
let innerMs = 0

function timed<A extends unknown[], R>(part: Part, run: (...args: A) => R): (...args: A) => R {
  return function (this: unknown, ...args: A): R {
    const [outerMs, startMs] = [innerMs, performance.now()]
    innerMs = 0
    try {
      return run.apply(this, args)
    } finally {
      const tookMs = performance.now() - startMs
      spentMs[part] += tookMs - innerMs
      innerMs = outerMs + tookMs
    }
  }
}

/** Once, before anything is verified. */
export function meter(): void {
  const crypto = createRequire(import.meta.url)('node:crypto') as { -readonly [K in keyof typeof Crypto]: (typeof Crypto)[K] }
  nacl.sign.detached.verify = timed('tweetnacl', nacl.sign.detached.verify)
  crypto.verify = timed('node:crypto', crypto.verify as (...args: unknown[]) => unknown) as typeof Crypto.verify
  crypto.createPublicKey = timed('node:crypto', crypto.createPublicKey)
  const { update, digest } = crypto.Hash.prototype as unknown as { update: () => unknown; digest: () => unknown }
  Object.assign(crypto.Hash.prototype, { update: timed('sha256', update), digest: timed('sha256', digest) })
  JSON.parse = timed('parse', JSON.parse)
  syncBuiltinESMExports()
}

/** Of `run` alone. */
export async function split<T>(run: () => Promise<T> | T): Promise<{ totalMs: number; parts: Readonly<Record<Part, number>> }> {
  for (const part of PARTS) spentMs[part] = 0
  const startMs = performance.now()
  await run()
  return { totalMs: performance.now() - startMs, parts: { ...spentMs } }
}
