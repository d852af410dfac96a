/**
 * Whoever has the controller has its certificate, its registry and all metadata that was ever published, and none of the keys that sign. A
 * device is ordered about by him with real connections, and runs what it ran.
 */
import { mkdtempSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { inSync } from '../../fleet/lab/bring-up.ts'
import { Home, readAnchors } from '../../fleet/home/home.ts'
import { initHome } from '../../fleet/home/init.ts'
import { readSigningKey } from '../../fleet/home/keys.ts'
import { buildBundle, signBundle } from '../../fleet/registry/make.ts'
import { ensureLabTrust, openLab, publishInLab, wishesOf } from '../../fleet/trust/lab.ts'
import { makePush } from '../../fleet/trust/make-push.ts'
import { allowing, changePolicy, readPolicyOf } from '../../fleet/trust/policy.ts'
import { readTrust } from '../../fleet/trust/trust.ts'
import { insideLab, labFor, type LabUnderTest, noLab, signedBundle } from './lab-under-test.ts'

const root = join(import.meta.dirname, '../..')
const telemetry = join(root, 'services/telemetry')

interface Carried {
  readonly metadata: readonly { name: string; content: string }[]
  readonly policy: string
}

/** What an order about a service carries, of the repository in a home; in base64. */
async function carried(home: Home, service: string, rootVersion = 1): Promise<Carried> {
  const repository = await readTrust(home.trust)
  const { push } = makePush(repository, { rootVersion, services: [service] })
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  const policy = await readPolicyOf(home.trust, repository)
  return { metadata: push.files.map(({ name, bytes }) => ({ name, content: text(bytes) })), policy: policy ? text(policy.bytes) : '' }
}

/** Orders an upgrade or install with the controller's own certificate; answers the code of the refusal, or "ACCEPTED". */
async function order(
  lab: LabUnderTest,
  how: 'Install' | 'Upgrade',
  of: { service: string; version: string },
  file: Uint8Array,
  more: Carried,
): Promise<string> {
  const input = join(lab.home.path, 'lab/stolen-order.json')
  const words = { ...of, bakeMs: 0, confirmTimeoutMs: 60_000, allowDowngrade: true, reason: 'stolen' }
  writeFileSync(input, JSON.stringify({ words, file: Buffer.from(file).toString('base64'), ...more }))
  const body = `
    const { words, file, metadata, policy } = JSON.parse(readFileSync(${JSON.stringify(input)}, 'utf8'))
    const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
    const order = { ...words, policy: bytes(policy), metadata: metadata.map(({ name, content }) => ({ name, content: bytes(content) })) }
    const all = bytes(file)
    const parts = [{ order }]
    for (let at = 0; at < all.length; at += 131072) parts.push({ chunk: all.subarray(at, at + 131072) })
    try {
      const change = await rpc.clientStream(lifecycle.LifecycleMethods.${how}, parts, { deadlineMs: 60000 })
      return 'ACCEPTED ' + change.id
    } catch (error) {
      return error.code
    }`
  return await insideLab<string>(lab, 'sw1', body, 'controller')
}

async function running(lab: LabUnderTest): Promise<Record<string, string>> {
  const body = `const { services } = await rpc.unary(lifecycle.LifecycleMethods.List, {}); return services.map(({ service, version }) => [service, version])`
  return Object.fromEntries(await insideLab<[string, string][]>(lab, 'sw1', body, 'controller'))
}

t.test('a stolen controller', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const lab = await labFor(t, { devices: 1, local: true })
  const before = await running(lab)
  t.same(before, { routing: '1.0.0', telemetry: '1.0.0', secrets: '1.0.0' })
  const stale = await carried(lab.home, 'telemetry')
  const [next, other] = [
    { service: 'telemetry', version: '1.9.0' },
    { service: 'telemetry', version: '1.1.0' },
  ]

  await t.test('its orders of bundles that nobody signed or listed are refused, each by name, and nothing changes', async (t) => {
    const unsigned = (await buildBundle(telemetry, next.version)).file
    const leaked = await signedBundle(lab, telemetry, next.version)
    t.equal(await order(lab, 'Upgrade', next, unsigned, await carried(lab.home, 'telemetry')), 'TRUST_UNLISTED', 'an unsigned bundle')
    t.equal(await order(lab, 'Upgrade', next, leaked, await carried(lab.home, 'telemetry')), 'TRUST_UNLISTED', 'one that a leaked bundle key signed')
    t.equal(await order(lab, 'Upgrade', next, leaked, { metadata: [], policy: '' }), 'TRUST_UNLISTED', 'and without metadata')
    t.equal(await order(lab, 'Upgrade', other, leaked, await carried(lab.home, 'telemetry')), 'BUNDLE_CORRUPT', 'under the name of a listed one')
    const service = { service: 'probes', version: '1.0.0' }
    t.equal(await order(lab, 'Install', service, leaked, await carried(lab.home, 'probes')), 'TRUST_UNLISTED', 'a service of its own')

    const own = await thief(t)
    t.match(
      await order(lab, 'Upgrade', next, own.file, await carried(own.home, 'telemetry', 0)),
      /^TRUST_(THRESHOLD|MISMATCH|ROLLBACK)$/,
      'a repository of its own',
    )
    t.match(await order(lab, 'Upgrade', next, own.file, await carried(own.home, 'telemetry', 1)), /^TRUST_THRESHOLD$/, 'the same, without its root')
    t.same(await running(lab), before)
  })

  await t.test('with a service key as well it gets no further than the policy, and not back to metadata of an earlier day', async (t) => {
    const context = await openLab(lab.home, Date.now())
    if (!context) throw new Error('not a lab')
    // The service's key alone is stolen: what it lists is still not what the policy lets run.
    await ensureLabTrust(context, ['probes'])
    const probes = await probesBundle(lab)
    await publishInLab(context, [probes], (await readAnchors(lab.home)).bundleKeys)
    t.equal(await order(lab, 'Install', { service: 'probes', version: '1.0.0' }, probes, await carried(lab.home, 'probes')), 'POLICY_DENIED')
    t.equal(await order(lab, 'Upgrade', other, await signedBundle(lab, telemetry, other.version), stale), 'TRUST_ROLLBACK')
    t.same(await running(lab), before)
    const trust = await insideLab<{ enforced: boolean; needsWitness: boolean; policyVersion: number }>(
      lab,
      'sw1',
      'return await rpc.unary(trust.TrustMethods.Status, {})',
      'controller',
    )
    t.match(trust, { enforced: true, needsWitness: false, policyVersion: 1 })
  })

  await t.test('a repository set back to an old backup is refused by the witness: a device that boots takes nothing, until it is mended', async (t) => {
    const link = join(lab.home.trust, 'repository')
    const newest = readlinkSync(link)
    await seenByWitness(lab, statSync(join(lab.home.trust, newest)).mtimeMs)
    const turn = (generation: string) => {
      symlinkSync(generation, `${link}.turn`)
      renameSync(`${link}.turn`, link)
    }
    const [machine] = lab.machines
    if (!machine) throw new Error('no machine')
    const said: string[] = []
    await machine.powerOff()
    turn(join('generations', String(Number(basename(newest)) - 1)))
    await machine.powerOn()
    await t.rejects(
      inSync(lab.client, lab.machines, { say: (line) => void said.push(line), signal: lab.signal }),
      { code: 'TRUST_ROLLBACK', message: /the witness says/ },
      'the device shows it, and waits',
    )
    t.same(await running(lab), {}, 'nothing runs')
    turn(newest)
    await mended(lab)
    t.same(await running(lab), before)
    if (!t.passing()) for (const line of said) t.comment(line)
  })
})

/** Brought into sync by the controller's next looks; what they find meanwhile is no end. */
async function mended(lab: LabUnderTest): Promise<void> {
  const deadlineMs = performance.now() + 120_000
  for (;;) {
    const [device] = await lab.client.devices()
    if (device?.phase === 'in-sync') return
    if (performance.now() > deadlineMs) throw new Error(`the device is ${device?.phase}: ${device?.reason}`)
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
}

/** The controller shows it what is published, without being asked. */
async function seenByWitness(lab: LabUnderTest, publishedMs: number): Promise<void> {
  const deadlineMs = performance.now() + 60_000
  while (statSync(join(lab.home.path, 'witness/seen.json')).mtimeMs < publishedMs) {
    if (performance.now() > deadlineMs) throw new Error('the witness was not shown what is published')
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Somebody with a whole repository of his own, a policy and a bundle that fits both. */
async function thief(t: { teardown(act: () => void): void }): Promise<{ home: Home; file: Uint8Array }> {
  const directory = mkdtempSync(join(tmpdir(), 'offbox-thief-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const home = new Home(join(directory, 'home'))
  await initHome(home.path, { fleet: 'lab', nowMs: Date.now() })
  const context = await openLab(home, Date.now())
  if (!context) throw new Error('not a lab')
  const file = signBundle((await buildBundle(telemetry, '1.9.0')).file, await readSigningKey(home))
  const { bundleKeys } = await readAnchors(home)
  await ensureLabTrust(context, ['telemetry'])
  await publishInLab(context, [file], bundleKeys)
  await changePolicy(context, (services) => allowing(services, wishesOf([file], bundleKeys)))
  return { home, file }
}

/** A service that the policy does not name. */
async function probesBundle(lab: LabUnderTest): Promise<Uint8Array> {
  const { joinBundle, splitBundle } = await import('../../core/bundle-format.ts')
  const { file } = await buildBundle(telemetry, '1.0.0')
  const { manifest, payload, documents } = splitBundle(file)
  const renamed = { ...JSON.parse(Buffer.from(manifest).toString('utf8')), name: 'probes' }
  const bytes = new TextEncoder().encode(JSON.stringify(renamed))
  return signBundle(joinBundle({ manifest: bytes, signatures: [], payload, ...(documents ? { documents } : {}) }), await readSigningKey(lab.home))
}
