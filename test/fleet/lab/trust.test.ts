/** What `npm start` makes of a home's trust: a new one, one of an earlier version, one whose repository has owners. */
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Home, readAnchors } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { buildBundles } from '../../../fleet/lab/build.ts'
import { labWitnessDirectory } from '../../../fleet/lab/witness.ts'
import { writeTrustAnchors } from '../../../fleet/trust/anchors.ts'
import { readKeyFiles } from '../../../fleet/trust/key-file.ts'
import { KeyRing } from '../../../fleet/trust/key-ring.ts'
import { ensureLabTrust, openLab } from '../../../fleet/trust/lab.ts'
import { fromText } from '../../../fleet/trust/passphrase.ts'
import { changePolicy, readPolicyOf } from '../../../fleet/trust/policy.ts'
import { initTrust, keysOf, readTrust, rotate } from '../../../fleet/trust/trust.ts'
import { costLog2, firstRoot, rootVersionOf } from '../trust/fixtures.ts'

t.setTimeout(280_000)

async function newHome(t: Test): Promise<Home> {
  const directory = mkdtempSync(join(tmpdir(), 'offbox-lab-trust-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const home = new Home(join(directory, 'home'))
  await initHome(home.path, { fleet: 'lab', nowMs: Date.now() })
  return home
}

t.test('a lab of an earlier version gets policy, witness and anchors, once; what its operator changed stays', async (t) => {
  const home = await newHome(t)
  const context = await openLab(home, Date.now())
  if (!context) throw new Error('not a lab')
  await ensureLabTrust(context, ['telemetry'])
  t.equal((await readAnchors(home)).trust, undefined)

  const said: string[] = []
  const say = (line: string) => void said.push(line)
  t.match(await buildBundles(home, say), { labTrust: true, fromVersion: '1.0.0' })
  const repository = await readTrust(home.trust)
  const [{ trust }, policy] = [await readAnchors(home), await readPolicyOf(home.trust, repository)]
  t.equal(trust?.root, Buffer.from(firstRoot(repository)).toString('utf8'))
  const [key] = await readKeyFiles(labWitnessDirectory(home))
  t.same([...(trust?.witnessKeys.values() ?? [])], [key?.publicKey])
  t.same(Object.keys(policy?.policy.services ?? {}).sort(), ['routing', 'secrets', 'telemetry'])
  t.same(policy?.policy.services['secrets']?.tiers, ['process'])

  await changePolicy(context, (before) => ({ ...before, probes: { keys: [], capabilities: [], tiers: [] } }))
  const state = async () => ({ anchors: readFileSync(home.anchors, 'utf8'), timestamp: (await readTrust(home.trust)).timestamp.signed.version })
  const before = await state()
  const writtenMs = statSync(join(labWitnessDirectory(home), 'tls.json')).mtimeMs
  await buildBundles(home, say)
  t.same(await state(), before, 'the next start changes nothing')
  t.equal(statSync(join(labWitnessDirectory(home), 'tls.json')).mtimeMs, writtenMs)
})

t.test('a repository that has owners is left to them, and the anchors as well', async (t) => {
  const home = await newHome(t)
  const keys = new KeyRing([keysOf(home.trust)], fromText('a passphrase of theirs', 'the test'), { costLog2 })
  await initTrust({ path: home.trust, keys, nowMs: Date.now() }, { rootKeys: 3, threshold: 2 })
  const before = readFileSync(home.anchors, 'utf8')
  const said: string[] = []
  t.match(await buildBundles(home, (line) => void said.push(line)), { labTrust: false })
  t.match(said.at(-1), /owners of its own/)
  t.equal(readFileSync(home.anchors, 'utf8'), before)
})

t.test('anchors begin with the root that they have, with the newest when they are renewed, and never with that of another repository', async (t) => {
  const home = await newHome(t)
  await t.rejects(writeTrustAnchors(home, { nowMs: 1_000 }), { code: 'HOME_INVALID', message: /trust init/ })
  const keys = new KeyRing([keysOf(home.trust)], fromText('a passphrase of theirs', 'the test'), { costLog2 })
  const context = { path: home.trust, keys, nowMs: Date.now() }
  await initTrust(context, { rootKeys: 3, threshold: 2 })
  t.equal(await writeTrustAnchors(home, { nowMs: 1_000 }), true)
  await rotate(context, 'root')
  t.equal(await writeTrustAnchors(home, { nowMs: 2_000 }), false, 'a chain can be followed from its beginning')
  t.equal((await readAnchors(home)).trust?.builtAtMs, 1_000)
  t.equal(await writeTrustAnchors(home, { nowMs: 3_000, renew: true }), true)
  const { trust } = await readAnchors(home)
  t.equal(JSON.parse(trust?.root ?? '').signed.version, rootVersionOf(await readTrust(home.trust)))
  t.equal(trust?.builtAtMs, 3_000)

  renameSync(home.trust, `${home.trust}.lost`)
  await initTrust(
    { ...context, keys: new KeyRing([keysOf(home.trust)], fromText('another passphrase', 'the test'), { costLog2 }) },
    { rootKeys: 1, threshold: 1 },
  )
  await t.rejects(writeTrustAnchors(home, { nowMs: 4_000 }), { code: 'HOME_INVALID', message: /another repository.*anchors --renew/ })
  t.equal(await writeTrustAnchors(home, { nowMs: 4_000, renew: true }), true)
})
