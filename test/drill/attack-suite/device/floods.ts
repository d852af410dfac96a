/** Too much, too slow, too deep: what keeps on coming has to end. */
import { POLICY_PATH } from '../../../../core/policy.ts'
import { type BundleUploadInit, LifecycleMethods } from '../../../../proto/gen/lifecycle.ts'
import { signManifest } from '../../../fixtures/bundles.ts'
import { SERVICE } from '../attack.ts'
import type { DeviceAttack } from './judge.ts'
import { carried, type DeviceScene } from './scene.ts'

const MIB = 1024 * 1024
/** Three times what any bundle has. */
const ENDLESS_BYTES = 48 * MIB
/** The device ends it earlier, by its own deadline. */
const PATIENCE_MS = 300_000

/** An order as good as any, and what follows it. */
function orderOf(scene: DeviceScene): BundleUploadInit {
  const { repository } = scene
  repository.release(SERVICE, '1.0.0')
  return { order: { service: SERVICE, version: repository.mapped('1.0.0'), bakeMs: 0, confirmTimeoutMs: 60_000, ...carried(repository.push()) } }
}

const upload = async (scene: DeviceScene, parts: AsyncIterable<BundleUploadInit> | Iterable<BundleUploadInit>) =>
  await scene.client.clientStream(LifecycleMethods.Upgrade, parts, { deadlineMs: PATIENCE_MS })

/** Slow ones take two minutes: the device runs what its owners order meanwhile. */
const slow = (name: string, parts: (scene: DeviceScene, ended: AbortSignal) => AsyncIterable<BundleUploadInit>): DeviceAttack => ({
  name: `slow retrieval: ${name}`,
  refused: ['DEADLINE_PASSED'],
  why: /the upload took longer than/,
  slow: true,
  run: async (scene) => {
    const ended = new AbortController()
    const going = upload(scene, parts(scene, ended.signal)).finally(() => ended.abort())
    going.catch(() => {})
    await scene.honestOrder(scene.repository.release(SERVICE, '2.0.0'))
    return await going
  },
})

async function pause(delayMs: number, ended: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, delayMs)
    ended.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}

const SLOW: readonly DeviceAttack[] = [
  slow('a byte a second', async function* (scene, ended) {
    yield orderOf(scene)
    while (!ended.aborted) {
      yield { chunk: new Uint8Array(1) }
      await pause(1_000, ended)
    }
  }),
  // biome-ignore lint/correctness/useYield: that is the attack
  slow('an upload whose order never comes', async function* (_, ended) {
    await pause(PATIENCE_MS, ended)
  }),
]

/** A listed bundle that its keys signed, as it should not be. */
const unreadable = (name: string, make: (scene: DeviceScene, version: string) => Uint8Array): DeviceAttack => ({
  name,
  refused: ['BUNDLE_MALFORMED'],
  keeps: ['snapshot'],
  run: async (scene) => {
    const { repository } = scene
    return await scene.order(repository.release(SERVICE, '1.0.0', { bytes: make(scene, repository.mapped('1.0.0')) }))
  },
})

const nested = (depth: number) => `${'['.repeat(depth)}1${']'.repeat(depth)}`

/** A policy that the targets' key signed. */
const unreadablePolicy = (name: string, why: RegExp, text: (before: string) => string): DeviceAttack => ({
  name,
  refused: ['TRUST_MALFORMED'],
  why,
  run: async (scene) => {
    const { repository } = scene
    const path = repository.release(SERVICE, '1.0.0')
    repository.policyBytes = new Uint8Array(Buffer.from(text(Buffer.from(repository.policyBytes).toString())))
    repository.list('targets', POLICY_PATH, repository.policyBytes)
    repository.publish('targets', 'snapshot', 'timestamp')
    return await scene.order(path)
  },
})

export const FLOODS: readonly DeviceAttack[] = [
  ...SLOW,
  {
    name: 'endless data: a bundle without end',
    refused: ['LIMIT_REACHED'],
    why: /the bundle has more than/,
    heldBy: 'upload-size',
    run: async (scene) => {
      let sentBytes = 0
      const parts = async function* (): AsyncGenerator<BundleUploadInit> {
        yield orderOf(scene)
        const chunk = new Uint8Array(128 * 1024)
        for (; sentBytes < ENDLESS_BYTES; sentBytes += chunk.length) yield { chunk }
      }
      try {
        return await upload(scene, parts())
      } catch (error) {
        // The device took all of it in before it looked.
        if (sentBytes >= ENDLESS_BYTES) return 'taken'
        throw error
      }
    },
  },
  {
    name: 'endless data: one chunk larger than chunks may be',
    refused: ['LIMIT_REACHED'],
    why: /a chunk has/,
    run: async (scene) => await upload(scene, [orderOf(scene), { chunk: new Uint8Array(300 * 1024) }]),
  },
  {
    name: 'endless data: one message of eight MiB',
    refused: ['LIMIT_REACHED', 'DEVICE_UNREACHABLE'],
    run: async (scene) => await upload(scene, [orderOf(scene), { chunk: new Uint8Array(8 * MIB) }]),
  },
  {
    name: 'endless data: a second order after the first',
    refused: ['ARGUMENT_INVALID'],
    run: async (scene) => await upload(scene, [orderOf(scene), orderOf(scene)]),
  },
  {
    name: 'endless data: metadata of 800 kB in twenty files',
    refused: ['TRUST_MALFORMED'],
    why: /bytes, more than/,
    run: async (scene) => {
      const files = Array.from({ length: 4 }, (_, at) => ({ name: `1.service-s${at}.json`, bytes: new Uint8Array(Buffer.from('{'.padEnd(200 * 1024, ' '))) }))
      return await scene.order('x', { files })
    },
  },
  ...[
    ['root', 33],
    ['snapshot', 65],
    ['targets', 257],
  ].map(
    ([role, sizeKib]): DeviceAttack => ({
      name: `too much: a ${role} of ${sizeKib} kB`,
      refused: ['TRUST_MALFORMED'],
      why: /bytes, more than/,
      run: async (scene) => {
        const { repository } = scene
        repository.roles[String(role)].padding = 'x'.repeat(Number(sizeKib) * 1024)
        repository.publish(String(role), ...(role === 'targets' ? ['snapshot'] : []), 'timestamp')
        return await scene.order(repository.release(SERVICE, '1.0.0'))
      },
    }),
  ),
  unreadable('too much: a signed manifest nested 2,000 deep', ({ fleet, repository }, version) =>
    signManifest(
      fleet.key,
      JSON.stringify({ schema: 1, name: SERVICE, version }).replace('}', `,"deep":${nested(2_000)}}`),
      repository.bundle(SERVICE, version),
    ),
  ),
  unreadable('too much: a bundle whose manifest says that it has four GiB', ({ repository }, version) => {
    const file = repository.bundle(SERVICE, version)
    file.set([0xff, 0xff, 0xff, 0xff], 8)
    return file
  }),
  unreadable('endless data: a byte after the end of a bundle', ({ repository }, version) => new Uint8Array([...repository.bundle(SERVICE, version), 0])),
  unreadable('malformed: a bundle of no bytes', () => new Uint8Array(1)),
  unreadable('malformed: a manifest that is signed and no manifest', ({ fleet }) => signManifest(fleet.key, '[]', new Uint8Array(1))),
  unreadablePolicy('too much: a signed policy nested 20 deep', /nested deeper/, (before) => before.replace(/}\s*$/, `,"deep":${nested(20)}}`)),
  unreadablePolicy('malformed: a signed policy with a rule that nobody knows', /unknown field/, (before) => before.replace(/}\s*$/, ',"anything":true}')),
  unreadablePolicy('malformed: a signed policy that lets every key', /64 hex digits/, (before) => before.replace(/"[0-9a-f]{64}"/, '"*"')),
]
