import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { TUF_LIMITS } from '../../../core/tuf/limits.ts'
import { filesOf } from '../../../core/tuf/push.ts'
import { KeyRing } from '../../../fleet/trust/key-ring.ts'
import { makePush } from '../../../fleet/trust/make-push.ts'
import { fromText } from '../../../fleet/trust/passphrase.ts'
import { publish } from '../../../fleet/trust/publish.ts'
import { sha256 } from '../../../fleet/trust/repository.ts'
import { statusOf } from '../../../fleet/trust/status.ts'
import { delegate, initTrust, keysOf, refresh, revoke, rotate, type TrustContext } from '../../../fleet/trust/trust.ts'
import { costLog2, firstRoot, ownDirectory, PASSPHRASE, rootVersionOf, type TestTrust, testTrust, TufClient } from './fixtures.ts'

const DAY_MS = 24 * 60 * 60 * 1000

/** Made once: key derivation and pure-JavaScript signatures are what these tests would else spend their time on. */
const template = await testTrust()
await delegate(template.context(), 'telemetry')
await publish(template.context(), [template.bundle('telemetry', '1.0.0')], { anchors: template.anchors })
t.teardown(() => template.remove())

/** A repository with one service, and a device that has its first root. */
async function started(t: Test): Promise<{ trust: TestTrust; client: TufClient; put: (version: string) => Promise<unknown> }> {
  const trust = await testTrust({ from: template })
  t.teardown(() => trust.remove())
  const client = new TufClient(firstRoot(await trust.read()))
  t.teardown(() => client.remove())
  return { trust, client, put: async (version) => await publish(trust.context(), [trust.bundle('telemetry', version)], { anchors: trust.anchors }) }
}

t.test('tuf-js follows the repository over pushes alone, and learns length and digest of a bundle', async (t) => {
  const { trust, client, put } = await started(t)
  const bundle = trust.bundle('telemetry', '1.0.0')
  t.same(await client.update(await trust.read(), 'telemetry', '1.0.0'), { length: bundle.length, sha256: sha256(bundle) })
  t.equal(await client.update(await trust.read(), 'telemetry', '1.1.0'), null, 'nobody signed this version')
  await put('1.1.0')
  t.ok(await client.update(await trust.read(), 'telemetry', '1.1.0'))
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'), 'the old one is still listed')
  t.equal(await client.update(await trust.read(), 'routing', '1.0.0'), null, 'a service that nobody may sign for')
  const role = (await trust.read()).roles.get('service-telemetry')?.signed
  t.match(role?.targets['services/telemetry/1.1.0.offbox']?.custom, { service: 'telemetry', version: '1.1.0', manifestSha256: /^[0-9a-f]{64}$/ })
})

t.test('publishing the same bundle again changes nothing; other bytes under its version are refused', async (t) => {
  const { trust, put } = await started(t)
  const before = (await trust.read()).timestamp.signed.version
  await put('1.0.0')
  t.equal((await trust.read()).timestamp.signed.version, before)
  const other = await testTrust({ init: false })
  t.teardown(() => other.remove())
  const context = trust.context()
  await t.rejects(publish(context, [other.bundle('telemetry', '1.0.0')], { anchors: trust.anchors }), { code: 'BUNDLE_UNTRUSTED' })
  const anchors = new Map([...trust.anchors, ...other.anchors])
  await t.rejects(publish(context, [other.bundle('telemetry', '1.0.0')], { anchors }), { code: 'BUNDLE_EXISTS' })
  await publish(context, [other.bundle('telemetry', '1.0.0')], { anchors, replace: true })
  t.equal((await trust.read()).timestamp.signed.version, before + 1, "a developer's replacement is a change")
  await t.rejects(publish(context, [trust.bundle('routing', '1.0.0')], { anchors: trust.anchors }), { code: 'STATE_REFUSED' }, 'nobody may sign for routing')
})

t.test('a published bundle can carry the signature of its service as well', async (t) => {
  const { trust, client } = await started(t)
  const [published] = await publish(trust.context(), [trust.bundle('telemetry', '2.0.0')], { anchors: trust.anchors, sign: true })
  t.ok(published && published.file.length === trust.bundle('telemetry', '2.0.0').length + 96)
  t.same(await client.update(await trust.read(), 'telemetry', '2.0.0'), { length: published?.file.length, sha256: sha256(published?.file as Uint8Array) })
  const own = await publish(trust.context(), [published?.file as Uint8Array], { anchors: new Map() })
  t.equal(own[0]?.path, 'services/telemetry/2.0.0.offbox', 'and is enough by itself')
})

t.test('a client follows root after root, each signed by the keys before and its own', async (t) => {
  const { trust, client, put } = await started(t)
  await client.update(await trust.read(), 'telemetry', '1.0.0')
  const late = client.copy()
  t.teardown(() => late.remove())
  for (const role of ['root', 'timestamp', 'root', 'snapshot', 'targets', 'root', 'service-telemetry']) {
    await rotate(trust.context(), role)
    t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'), `after a new ${role}`)
  }
  await put('1.1.0')
  const repository = await trust.read()
  t.equal(rootVersionOf(repository), 7)
  t.ok(await late.update(repository, 'telemetry', '1.1.0'), 'one that slept through all of it catches up')
  const fresh = new TufClient(firstRoot(repository))
  t.teardown(() => fresh.remove())
  t.ok(await fresh.update(repository, 'telemetry', '1.1.0'), 'and so does one with the first root alone')
  const gap = makePush(repository, { rootVersion: 3, services: ['telemetry'] }).push
  const other = new TufClient(firstRoot(repository))
  t.teardown(() => other.remove())
  await t.rejects(other.take(filesOf(gap), 'telemetry', '1.1.0'), 'but none with a gap in the chain')
})

t.test('one root key can be replaced, and two of three suffice to do it', async (t) => {
  const { trust, client } = await started(t)
  const files = readdirSync(keysOf(trust.path)).filter((name) => name.startsWith('root-'))
  const lost = files[0] as string
  renameSync(join(keysOf(trust.path), lost), join(dirname(trust.path), lost))
  const id = lost.slice('root-'.length, -'.json'.length)
  const before = (await trust.read()).roots[0]?.signed.roles.root.keyids ?? []
  await rotate(trust.context(), 'root', { replace: id })
  const repository = await trust.read()
  const after = repository.roots[1]?.signed.roles.root.keyids ?? []
  t.equal(after.length, 3)
  t.equal(after.filter((keyid) => before.includes(keyid)).length, 2)
  t.notOk(after.some((keyid) => keyid.startsWith(id)))
  t.ok(await client.update(repository, 'telemetry', '1.0.0'))
})

t.test('fewer root keys than the threshold change nothing', async (t) => {
  const { trust } = await started(t)
  const files = readdirSync(keysOf(trust.path)).filter((name) => name.startsWith('root-'))
  for (const name of files.slice(0, 2)) renameSync(join(keysOf(trust.path), name), join(dirname(trust.path), name))
  const before = readdirSync(join(trust.path, 'repository'))
  await t.rejects(rotate(trust.context(), 'root'), { code: 'TRUST_THRESHOLD' })
  await t.rejects(rotate(trust.context(), 'timestamp'), { code: 'TRUST_THRESHOLD' })
  t.same(readdirSync(join(trust.path, 'repository')), before)
  await refresh(trust.context())
  await delegate(trust.context(), 'routing')
  t.pass('what needs no root key goes on')
})

t.test('root keys may live in directories of their owners, each with a passphrase of its own', async (t) => {
  const trust = await testTrust({ init: false })
  t.teardown(() => trust.remove())
  const directories = ['a', 'b', 'c'].map((name) => ownDirectory(dirname(trust.path), name))
  await initTrust(trust.context(), { rootKeys: 3, threshold: 2, rootDirectories: directories })
  t.same(
    readdirSync(keysOf(trust.path)).filter((name) => name.startsWith('root-')),
    [],
    'none in the home',
  )
  for (const directory of directories) t.equal(readdirSync(directory).length, 1)
  await t.rejects(rotate(trust.context({ passphrase: PASSPHRASE }), 'targets'), { code: 'TRUST_THRESHOLD' }, 'offline is offline')
  await rotate(trust.context({ directories: directories.slice(1) }), 'targets')

  // The owner of a new key has another passphrase; a file of two lines opens both kinds.
  const other = 'another passphrase'
  const id = readdirSync(directories[0] as string)[0]?.slice(5, 21) as string
  await rotate(trust.context({ directories: directories.slice(1), passphrase: `${PASSPHRASE}\n${other}` }), 'root', {
    replace: id,
    directories: directories.slice(0, 1),
  })
  t.equal(readdirSync(directories[0] as string).length, 2, 'the old key file is left to its owner')
  await rotate(trust.context({ directories, passphrase: `${other}\n${PASSPHRASE}` }), 'timestamp')
})

t.test('a wrong passphrase opens nothing and changes nothing', async (t) => {
  const { trust } = await started(t)
  const before = readdirSync(join(trust.path, 'repository'))
  await t.rejects(refresh(trust.context({ passphrase: 'not the passphrase' })), { code: 'TRUST_KEY_LOCKED' })
  t.same(readdirSync(join(trust.path, 'repository')), before)
  await t.rejects(testTrustWith('short'), { code: 'ARGUMENT_INVALID' }, 'a short one is refused at birth')
})

async function testTrustWith(passphrase: string): Promise<void> {
  const trust = await testTrust({ init: false })
  try {
    await initTrust(trust.context({ passphrase }), { rootKeys: 1, threshold: 1 })
  } finally {
    trust.remove()
  }
}

t.test('a key file that others can read is refused, and what is sealed in it is nowhere in clear', async (t) => {
  const { trust } = await started(t)
  const [name] = readdirSync(keysOf(trust.path)).filter((one) => one.startsWith('timestamp-'))
  const path = join(keysOf(trust.path), name as string)
  t.equal(statSync(path).mode & 0o777, 0o600)
  chmodSync(path, 0o644)
  await t.rejects(refresh(trust.context()), { code: 'HOME_INVALID', message: /chmod 600/ })
  chmodSync(path, 0o600)
  const keys = new KeyRing([keysOf(trust.path)], fromText(PASSPHRASE, 'the test'), { costLog2 })
  const role = (await trust.read()).roots[0]?.signed.roles.timestamp
  const [open] = role ? await keys.signersFor('timestamp', role) : []
  t.match(open?.sign(new Uint8Array(8)), { length: 64 })
  const fresh = () => trust.context({ passphrase: PASSPHRASE })
  const text = readFileSync(path, 'utf8')
  t.notMatch(text, /seed|private|secret/i)
  const file = JSON.parse(text)
  const last = Number.parseInt(file.box.sealed.slice(-2), 16) ^ 1
  file.box.sealed = `${file.box.sealed.slice(0, -2)}${last.toString(16).padStart(2, '0')}`
  writeFileSync(path, JSON.stringify(file), { mode: 0o600 })
  await t.rejects(refresh(fresh()), { code: 'TRUST_KEY_LOCKED' }, 'a flipped byte is seen')
  writeFileSync(path, JSON.stringify({ ...file, kdf: { ...file.kdf, costLog2: 40 } }), { mode: 0o600 })
  await t.rejects(refresh(fresh()), { code: 'STORE_CORRUPT' }, 'a planted cost is not paid')
})

t.test('a revoked key signs nothing any more, whichever role it had', async (t) => {
  const { trust, client, put } = await started(t)
  const stolen = await trust.read()
  const key = stolen.targets.signed.delegations?.roles[0]?.keyids[0] as string
  const thief = new KeyRing([keysOf(trust.path)], fromText(PASSPHRASE, 'the test'), { costLog2 })
  await thief.signersFor('service-telemetry', { keyids: [key], threshold: 1 })
  await client.update(stolen, 'telemetry', '1.0.0')
  await revoke(trust.context(), key.slice(0, 16))
  const repository = await trust.read()
  t.notOk(repository.targets.signed.delegations?.keys[key])
  t.ok(await client.update(repository, 'telemetry', '1.0.0'), 'what it signed before is signed anew by its successor')
  await put('1.1.0')
  t.ok(await client.update(await trust.read(), 'telemetry', '1.1.0'))
  await t.rejects(client.update(stolen, 'telemetry', '1.0.0'), 'the metadata of before is a rollback')
  for (const role of ['timestamp', 'snapshot', 'targets'] as const) {
    const old = (await trust.read()).roots.at(-1)?.signed.roles[role].keyids[0] as string
    await revoke(trust.context(), old)
    t.notSame((await trust.read()).roots.at(-1)?.signed.roles[role].keyids, [old])
    t.ok(await client.update(await trust.read(), 'telemetry', '1.1.0'), role)
  }
})

t.test('a revoked root key does not even sign its own end while others are at hand', async (t) => {
  const { trust, client } = await started(t)
  const [root] = (await trust.read()).roots
  const key = root?.signed.roles.root.keyids[0] as string
  await revoke(trust.context(), key)
  const next = (await trust.read()).roots[1]
  t.notOk(next?.signatures.some(({ keyid }) => keyid === key))
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'))
})

t.test('no key is made for a change that cannot be signed', async (t) => {
  const { trust } = await started(t)
  const role = (await trust.read()).targets.signed.delegations?.roles[0]?.keyids[0] as string
  const keys = () => readdirSync(keysOf(trust.path)).sort()
  const away = ownDirectory(dirname(trust.path), 'away')
  const attempts: readonly (readonly [string, (context: TrustContext) => Promise<unknown>])[] = [
    ['root', async (context) => await rotate(context, 'timestamp')],
    ['timestamp', async (context) => await rotate(context, 'root')],
    ['snapshot', async (context) => await rotate(context, 'targets')],
    ['targets', async (context) => await rotate(context, 'service-telemetry')],
    ['targets', async (context) => await revoke(context, role)],
    ['timestamp', async (context) => await delegate(context, 'routing')],
  ]
  for (const [gone, attempt] of attempts) {
    const moved = keys().filter((name) => name.startsWith(`${gone}-`))
    t.ok(moved.length > 0)
    for (const name of moved) renameSync(join(keysOf(trust.path), name), join(away, name))
    const before = keys()
    await t.rejects(attempt(trust.context({ passphrase: PASSPHRASE })), { code: 'TRUST_THRESHOLD' }, `without ${gone}`)
    t.same(keys(), before, 'nothing was made')
    for (const name of moved) renameSync(join(away, name), join(keysOf(trust.path), name))
  }
  const before = keys()
  for (const threshold of [0, 17]) {
    await t.rejects(delegate(trust.context({ passphrase: PASSPHRASE }), 'routing', { threshold }), { code: 'ARGUMENT_INVALID' }, `${threshold} keys`)
  }
  t.same(keys(), before, 'nor more of them than a role may have')
  const [lost = ''] = keys().filter((name) => name.startsWith('timestamp-'))
  renameSync(join(keysOf(trust.path), lost), join(away, lost))
  await rotate(trust.context({ passphrase: PASSPHRASE }), 'timestamp')
  t.notSame(
    (await trust.read()).roots.at(-1)?.signed.roles.timestamp,
    (await trust.read()).roots[0]?.signed.roles.timestamp,
    'a lost key is replaced without it',
  )
})

t.test('a bundle, or a whole service, can be withdrawn', async (t) => {
  const { trust, client, put } = await started(t)
  await put('1.1.0')
  await revoke(trust.context(), 'services/telemetry/1.0.0.offbox')
  t.equal(await client.update(await trust.read(), 'telemetry', '1.0.0'), null)
  t.ok(await client.update(await trust.read(), 'telemetry', '1.1.0'))
  await revoke(trust.context(), 'service-telemetry')
  t.equal(await client.update(await trust.read(), 'telemetry', '1.1.0'), null)
  await delegate(trust.context(), 'telemetry')
  t.equal(await client.update(await trust.read(), 'telemetry', '1.1.0'), null, 'delegated anew, it begins with nothing')
  await put('1.2.0')
  t.ok(await client.update(await trust.read(), 'telemetry', '1.2.0'))
  await t.rejects(revoke(trust.context(), 'services/telemetry/9.9.9.offbox'), { code: 'ARGUMENT_INVALID' })
  await t.rejects(revoke(trust.context(), '0000'), { code: 'ARGUMENT_INVALID' }, 'a handful of digits names no key')
})

t.test("a team's key can be elsewhere: its service is delegated to the public key, and signs when the key is at hand", async (t) => {
  const { trust, client } = await started(t)
  const directory = ownDirectory(dirname(trust.path), 'team')
  const [key] = await new KeyRing([directory], fromText('the passphrase of the team', 'the team'), { costLog2 }).make('service-routing', 1)
  await delegate(trust.context(), 'routing', { publicKeys: [key?.bundleKey.publicKey as Uint8Array] })
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'), 'others are not disturbed')
  await t.rejects(client.update(await trust.read(), 'routing', '1.0.0'), 'nothing is signed yet')
  await t.rejects(publish(trust.context(), [trust.bundle('routing', '1.0.0')], { anchors: trust.anchors }), { code: 'TRUST_THRESHOLD' })
  const team: TrustContext = trust.context({ directories: [directory], passphrase: `the passphrase of the team\n${PASSPHRASE}` })
  await publish(team, [trust.bundle('routing', '1.0.0')], { anchors: trust.anchors })
  t.ok(await client.update(await trust.read(), 'routing', '1.0.0'))
})

t.test("a service's key cannot sign for another service", async (t) => {
  const { trust, client } = await started(t)
  await delegate(trust.context(), 'routing')
  // What its holder would do: list a target of another service in his own role.
  const before = await trust.read()
  const { changeListed } = await import('../../../fleet/trust/trust.ts')
  const target = before.roles.get('service-telemetry')?.signed.targets['services/telemetry/1.0.0.offbox']
  const roles = new Map([['service-routing', { targets: { 'services/telemetry/9.0.0.offbox': target as never } }]])
  await changeListed(trust.context(), async () => ({ roles }))
  t.equal(await client.update(await trust.read(), 'telemetry', '9.0.0'), null)
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'))
})

t.test('what has expired is warned of with what that means today, and what is about to with the time left', async (t) => {
  const repository = await template.read()
  const warnings = (days: number) => statusOf(repository, [], Date.now() + days * DAY_MS).warnings.filter((text) => text.startsWith('timestamp'))
  t.same(warnings(0), [])
  t.match(warnings(6), [/^timestamp expires in \d+ hours, at .* \(offbox trust refresh\)$/])
  t.match(warnings(8), [/^timestamp expired at .*: devices run what they run, and take nothing new until it is signed again \(offbox trust refresh\)$/])
})

t.test('what has expired is refused, and refreshed it is taken again', async (t) => {
  const { trust, client } = await started(t)
  await refresh(trust.context({ nowMs: Date.now() - 8 * DAY_MS }))
  await t.rejects(client.update(await trust.read(), 'telemetry', '1.0.0'), { name: /Error/, message: /timestamp.json is expired/ })
  const before = (await trust.read()).snapshot.signed.version
  await refresh(trust.context({ nowMs: Date.now() }))
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'))
  t.equal((await trust.read()).snapshot.signed.version, before, 'the snapshot has most of its time left')
  await refresh(trust.context({ nowMs: Date.now() + 20 * DAY_MS }))
  t.equal((await trust.read()).snapshot.signed.version, before + 1)
  await refresh(trust.context({ nowMs: Date.now() }), ['root', 'targets', 'service-telemetry'])
  t.equal(rootVersionOf(await trust.read()), 2)
  t.ok(await client.update(await trust.read(), 'telemetry', '1.0.0'))
})

t.test('a device far behind gets roots alone first, and every push is bounded', async (t) => {
  const { trust } = await started(t)
  const repository = await trust.read()
  // Only names and numbers matter here; that a client follows a chain is shown above.
  const many = TUF_LIMITS.rootsPerPushMax + 3
  const [root] = repository.roots
  const numbered = (version: number) => ({ ...(root as (typeof repository.roots)[0]), signed: { ...(root as (typeof repository.roots)[0]).signed, version } })
  const roots = Array.from({ length: many }, (_, index) => numbered(index + 1))
  const files = new Map([...repository.files, ...roots.map(({ signed }) => [`${signed.version}.root.json`, firstRoot(repository)] as const)])
  const far = { ...repository, roots, files }
  const first = makePush(far, { rootVersion: 1, services: ['telemetry'] })
  t.ok(first.more)
  t.same(
    first.push.files.map(({ name }) => name),
    Array.from({ length: TUF_LIMITS.rootsPerPushMax }, (_, index) => `${index + 2}.root.json`),
  )
  const second = makePush(far, { rootVersion: 1 + TUF_LIMITS.rootsPerPushMax, services: ['telemetry', 'telemetry', 'unheard-of'] })
  t.notOk(second.more)
  t.same(
    second.push.files.map(({ name }) => name),
    [`${many - 1}.root.json`, `${many}.root.json`, 'timestamp.json', '3.snapshot.json', '2.targets.json', '2.service-telemetry.json'],
  )
  t.equal(makePush(far, { rootVersion: many, services: [] }).push.files.length, 3)
})

t.test('a repository is never made twice, and there is none before init', async (t) => {
  const trust = await testTrust({ init: false })
  t.teardown(() => trust.remove())
  await t.rejects(trust.read(), { code: 'HOME_INVALID', message: /trust init/ })
  await initTrust(trust.context(), { rootKeys: 3, threshold: 2 })
  await t.rejects(initTrust(trust.context(), { rootKeys: 3, threshold: 2 }), { code: 'STATE_REFUSED' })
  await t.rejects(initTrust(trust.context(), { rootKeys: 3, threshold: 4 }), { code: 'ARGUMENT_INVALID' })
  await delegate(trust.context(), 'telemetry')
  await t.rejects(delegate(trust.context(), 'telemetry'), { code: 'STATE_REFUSED' })
  await t.rejects(delegate(trust.context(), '../x'), { code: 'ARGUMENT_INVALID' })
  t.ok(existsSync(join(trust.path, 'repository/1.root.json')))
})
