import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Home, readAnchors } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { readSigningKey, type SigningKey } from '../../../fleet/home/keys.ts'
import { joinBundle } from '../../../core/bundle-format.ts'
import { signBundle } from '../../../fleet/registry/make.ts'
import { sha256Hex } from '../../../fleet/home/keys.ts'
import { readBundle } from '../../../fleet/registry/verify.ts'
import { KeyRing } from '../../../fleet/trust/key-ring.ts'
import { ensureLabTrust, labPassphraseFile, offerInLab, openLab, publishInLab } from '../../../fleet/trust/lab.ts'
import { fromText } from '../../../fleet/trust/passphrase.ts'
import { isDue, statusOf } from '../../../fleet/trust/status.ts'
import { readPolicyOf } from '../../../fleet/trust/policy.ts'
import { initTrust, keysOf, readTrust, type TrustContext } from '../../../fleet/trust/trust.ts'
import { costLog2, firstRoot, TufClient } from './fixtures.ts'

const DAY_MS = 24 * 60 * 60 * 1000

async function newHome(t: Test): Promise<{ home: Home; key: SigningKey }> {
  const directory = mkdtempSync(join(tmpdir(), 'offbox-trust-lab-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const home = new Home(join(directory, 'home'))
  await initHome(home.path, { fleet: 'lab', nowMs: Date.now() })
  return { home, key: await readSigningKey(home) }
}

function bundleOf(key: SigningKey, code: string, more: { version?: string; capabilities?: string[] } = {}): Uint8Array {
  const payload = new TextEncoder().encode(code)
  const facts = { schema: 1, name: 'telemetry', version: '1.0.0', methods: [], capabilities: [], snapshot: { writes: [], reads: [] }, heapMbMax: 32, ...more }
  const manifest = JSON.stringify({ ...facts, payload: { sha256: sha256Hex(payload), sizeBytes: payload.length } })
  return signBundle(joinBundle({ manifest: new TextEncoder().encode(manifest), signatures: [], payload }), key)
}

async function lab(home: Home, nowMs: number): Promise<TrustContext> {
  const context = await openLab(home, nowMs)
  if (!context) throw new Error("the repository is not the lab's")
  return context
}

t.test('a lab makes its repository by itself, once, and a client follows it', async (t) => {
  const { home, key } = await newHome(t)
  const now = Date.now()
  const { bundleKeys } = await readAnchors(home)
  const first = await lab(home, now - 150 * DAY_MS)
  t.equal(await ensureLabTrust(first, ['telemetry']), true)
  t.equal(statSync(labPassphraseFile(home.trust)).mode & 0o777, 0o600)
  await publishInLab(first, [bundleOf(key, '// one')], bundleKeys)
  const later = await lab(home, now)
  t.equal(await ensureLabTrust(later, ['telemetry']), false, 'the second time nothing is made')

  const client = new TufClient(firstRoot(await readTrust(home.trust)))
  t.teardown(() => client.remove())
  await t.rejects(client.update(await readTrust(home.trust), 'telemetry', '1.0.0'), 'it has slept for months')
  const changed = bundleOf(key, '// the sources have changed')
  await publishInLab(later, [changed], bundleKeys)
  const repository = await readTrust(home.trust)
  t.same(await client.update(repository, 'telemetry', '1.0.0'), { length: changed.length, sha256: readBundle(changed, bundleKeys).sha256 })
  t.same(statusOf(repository, [], now).roles.filter(isDue), [], 'nothing is about to expire')
  await publishInLab(later, [changed], bundleKeys)
  t.equal((await readTrust(home.trust)).timestamp.signed.version, repository.timestamp.signed.version, 'and repeating it changes nothing')
})

t.test("what comes into a lab's registry is published; a new service is let run as its manifest says, a known one is not let do more", async (t) => {
  const { home, key } = await newHome(t)
  const now = Date.now()
  t.same(await offerInLab(home, [bundleOf(key, '// one')], now), [], 'not before the lab has made its repository')
  await ensureLabTrust(await lab(home, now), [])
  t.same(await offerInLab(home, [bundleOf(key, '// one')], now), ['telemetry'])
  const policy = async () => (await readPolicyOf(home.trust, await readTrust(home.trust)))?.policy
  const rule = { keys: [key.keyId], capabilities: [], tiers: ['worker', 'process'] }
  t.same(await policy(), { version: 1, services: { telemetry: rule } })
  const greedy = bundleOf(key, '// two', { version: '2.0.0', capabilities: ['state'] })
  t.same(await offerInLab(home, [greedy], now), [])
  t.same(await policy(), { version: 1, services: { telemetry: rule } }, 'that is for the operator to allow')
  const repository = await readTrust(home.trust)
  t.same(Object.keys(repository.roles.get('service-telemetry')?.signed.targets ?? {}), ['services/telemetry/1.0.0.offbox', 'services/telemetry/2.0.0.offbox'])
})

t.test("a repository of the home's owners is left alone", async (t) => {
  const { home, key } = await newHome(t)
  const keys = new KeyRing([keysOf(home.trust)], fromText('a passphrase of theirs', 'the test'), { costLog2 })
  await initTrust({ path: home.trust, keys, nowMs: Date.now() }, { rootKeys: 1, threshold: 1 })
  t.equal(await openLab(home, Date.now()), null)
  t.same(await offerInLab(home, [bundleOf(key, '// one')], Date.now()), [])
  t.notOk(existsSync(labPassphraseFile(home.trust)))
  t.match(statusOf(await readTrust(home.trust), await keys.files(), Date.now()).warnings, [/every root key is needed/])
})
