/**
 * What it takes to verify an order of a typical bundle, as a device does it: the pushed metadata (TUF, by tuf-js and a second lock), the
 * bundle's own signature, its digests, the policy, the store. Beside the floor: one check by node:crypto of the same signature and one SHA-256
 * of the file, in the same run. First in the examiner's thread, as the agent does it; then in this one, to see where the time goes.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { inThisThread, type Examiner } from '../agent/trust/examiner.ts'
import { ThreadExaminer } from '../agent/trust/thread-examiner.ts'
import { verifyBundle } from '../agent/trust/verify.ts'
import { BUNDLE_LIMITS, bundleSignedBytes, splitBundle } from '../core/bundle-format.ts'
import { systemClock as clock } from '../core/clock.ts'
import { median, quantile, report } from './report.ts'
import { meter, type Part, split } from './verify/meter.ts'
import { type Release, SERVICE, setTheScene } from './verify/scene.ts'

const SAMPLES = 20
const GOAL_MS = 150

const scene = await setTheScene()
const [first, next] = scene.releases
const text = readFileSync(join(import.meta.dirname, '../dist/agent/examiner.js'), 'utf8')
const orderMs: number[] = []
const firstMs: number[] = []
const orderCpuMs: number[] = []
const bundleMs: number[] = []
const floorMs: number[] = []
const splits: { orderMs: number; metadataMs: number; bundleMs: number; parts: Readonly<Record<string, number>> }[] = []

for (let sample = 0; sample < SAMPLES; sample++) {
  // A thread of its own for each: it remembers which signatures it found good, and these are the same each time.
  const thread = new ThreadExaminer({ clock, text })
  const device = await scene.device(thread)
  // The first order after a start also starts the thread and compiles its code.
  firstMs.push(await timedMs(async () => await order(device.bundles, first)))
  const before = cpuMs()
  orderMs.push(await timedMs(async () => await order(device.bundles, next)))
  orderCpuMs.push(cpuMs() - before)
  device.remove()
  thread.close()
  floorMs.push(await timedMs(async () => floor(next.file)))
  bundleMs.push(await timedMs(async () => void verifyBundle(next.file, scene.keys)))
}
meter()
for (let sample = 0; sample < SAMPLES + 1; sample++) {
  const timing = { metadataMs: 0, bundleMs: 0 }
  const device = await scene.device(apart(timing))
  await order(device.bundles, first)
  Object.assign(timing, { metadataMs: 0, bundleMs: 0 })
  const { totalMs, parts } = await split(async () => await order(device.bundles, next))
  // The first one compiles.
  if (sample > 0) splits.push({ orderMs: totalMs, ...timing, parts })
  device.remove()
}
scene.close()

// The one that was disturbed least: its parts add up, and a part of another one may hold somebody else's turn.
const least = splits.toSorted((one, other) => one.orderMs - other.orderMs)[0]
if (!least) throw new Error('nothing was taken apart')
const known = Object.values(least.parts).reduce((sum, one) => sum + one, 0)
report(
  'verify',
  {
    'order, in its thread': { samples: orderMs, unit: 'ms' },
    'the first order after a start': { samples: firstMs, unit: 'ms' },
    'CPU of an order': { samples: orderCpuMs, unit: 'ms' },
    'bundle alone': { samples: bundleMs, unit: 'ms' },
    'floor: one check, one hash': { samples: floorMs, unit: 'ms' },
    'order, taken apart': { samples: splits.map((one) => one.orderMs), unit: 'ms' },
  },
  {
    ...{ orderMs: median(orderMs), orderP99Ms: quantile(orderMs, 0.99), goalMs: GOAL_MS, firstMs: median(firstMs) },
    ...{ orderCpuMs: median(orderCpuMs), orderBestMs: Math.min(...orderMs), bundlesPerS: 1_000 / Math.min(...bundleMs) },
    ...{ bundleMs: median(bundleMs), floorMs: median(floorMs), ratio: median(orderMs) / median(floorMs) },
    ...{ bundleBytes: next.file.length, manifestBytes: splitBundle(next.file).manifest.length, largestBundleMs: largest() },
    // One order, in this thread. tuf-js, canonical JSON and the rules are what the parts leave of verifying; store and policy what that leaves.
    ...{ splitMs: least.orderMs, tweetnaclMs: part('tweetnacl'), nodeCryptoMs: part('node:crypto'), sha256Ms: part('sha256'), parseMs: part('parse') },
    tufMs: Math.max(0, least.metadataMs + least.bundleMs - known),
    storeMs: least.orderMs - least.metadataMs - least.bundleMs,
    verdict: median(orderMs) <= GOAL_MS ? 'within the goal' : 'over the goal',
  },
)
process.exit(0)

function part(name: Part): number {
  return least?.parts[name] ?? 0
}

/** CPU of all threads, milliseconds: unlike the clock it does not count those who want the cores as well. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1_000
}

async function order(bundles: Awaited<ReturnType<typeof scene.device>>['bundles'], { version, file, evidence }: Release): Promise<void> {
  await bundles.ordered({ service: SERVICE, version }, file, evidence)
}

async function timedMs(run: () => Promise<void>): Promise<number> {
  const startMs = performance.now()
  await run()
  return performance.now() - startMs
}

/** The same work in this thread, its two halves timed. */
function apart(timing: { metadataMs: number; bundleMs: number }): Examiner {
  const inner = inThisThread()
  return {
    metadata: async (request) => {
      const startMs = performance.now()
      const findings = await inner.metadata(request)
      timing.metadataMs += performance.now() - startMs
      return findings
    },
    bundle: async (file, trusted) => {
      const startMs = performance.now()
      const bundle = await inner.bundle(file, trusted)
      timing.bundleMs += performance.now() - startMs
      return bundle
    },
  }
}

/** What no verification of a bundle can be below. */
function floor(file: Uint8Array): void {
  const { manifest, signatures } = splitBundle(file)
  const [one] = signatures
  const raw = one && scene.keys.get(one.keyId)
  if (!one || !raw) throw new Error('the bundle is not signed by the key of the scene')
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(raw).toString('base64url') }, format: 'jwk' })
  if (!verify(null, bundleSignedBytes(manifest), key, one.signature)) throw new Error('the signature does not hold')
  createHash('sha256').update(file).digest()
}

/** Hashing the largest payload there may be, milliseconds: the part of the cost that grows with the file. */
function largest(): number {
  const payload = new Uint8Array(BUNDLE_LIMITS.payloadBytesMax)
  const startMs = performance.now()
  createHash('sha256').update(payload).digest()
  return performance.now() - startMs
}
