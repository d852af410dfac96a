import { chmod, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { systemClock } from '../../../core/clock.ts'
import { readStatement } from '../../../core/trust/statement.ts'
import { Home, readAnchors, readCa, readIdentity } from '../../../fleet/home/home.ts'
import { initHome } from '../../../fleet/home/init.ts'
import { RpcClient } from '../../../fleet/rpc/client.ts'
import { fromText } from '../../../fleet/trust/passphrase.ts'
import { initWitness, serveWitness } from '../../../fleet/witness/serve.ts'
import { makeIdentity, serviceDnsName } from '../../../core/x509.ts'
import { WitnessMethods } from '../../../proto/gen/witness.ts'
import { DAY_MS, Repository } from '../../agent/trust/tuf/repository.ts'

const passphrases = fromText('correct horse battery', 'the test')
const log = { debug() {}, info() {}, warn() {}, error() {} }

t.test('a witness serves operators and controllers of its fleet over TLS, with a key that is sealed on its disk', { timeout: 250_000 }, async (t) => {
  const directory = t.testdir({ home: {} })
  const [homePath, own] = [join(directory, 'home'), join(directory, 'witness')]
  await chmod(homePath, 0o700)
  await initHome(homePath, { fleet: 'lab', nowMs: Date.now() })
  const home = new Home(homePath)
  const repository = new Repository()
  await t.rejects(initWitness(home, own, new TextEncoder().encode('{}'), passphrases), { code: 'TRUST_MALFORMED' })
  const { keyId } = await initWitness(home, own, repository.anchor, passphrases)
  t.equal((await initWitness(home, own, repository.anchor, passphrases)).keyId, keyId, 'safe to repeat')
  await t.rejects(initWitness(home, own, new Repository().anchor, passphrases), { code: 'HOME_INVALID' }, 'another root')
  const start = async (given = passphrases) =>
    await serveWitness({ directory: own, address: '127.0.0.1', port: 0, passphrases: given, clock: systemClock, log: log as never })
  await t.rejects(start(fromText('wrong horse battery', 'the test')), { code: 'HOME_INVALID' })
  const keyFile = (await readdir(own)).find((name) => name.startsWith('witness-')) ?? ''
  await chmod(join(own, keyFile), 0o644)
  await t.rejects(start(), { code: 'HOME_INVALID' }, 'a key that is open to others')
  await chmod(join(own, keyFile), 0o600)

  const server = await start()
  t.teardown(async () => await server.close())
  await t.rejects(start(), { code: 'HOME_IN_USE' })
  const { caPem } = await readAnchors(home)
  const client = (identity: { keyPem: string; certificatePem: string }) => {
    const made = new RpcClient({ target: `127.0.0.1:${server.port}`, serverName: serviceDnsName('lab', 'witness'), caPem, identity })
    t.teardown(() => made.close())
    return made
  }
  const operator = client(await readIdentity(home, 'operator'))
  const nonce = new Uint8Array(randomBytes(32))
  const answer = await operator.unary(WitnessMethods.Attest, { nonce, files: [] })
  const statement = readStatement(answer, server.keys)
  t.match(statement, { fleet: 'lab', nonce: Buffer.from(nonce).toString('hex'), heights: null })
  t.ok(Math.abs(statement.timeMs - Date.now()) < DAY_MS)
  await t.rejects(operator.unary(WitnessMethods.Attest, { nonce: new Uint8Array(5), files: [] }), { code: 'ARGUMENT_INVALID' })
  const files = repository.push().files.map(({ name, bytes }) => ({ name, content: bytes }))
  await t.rejects(operator.unary(WitnessMethods.Attest, { nonce, files }), { code: 'TRUST_EXPIRED' }, 'metadata of another time')
  const names = { fleet: 'lab', nowMs: Date.now(), validMs: DAY_MS }
  const device = client(await makeIdentity(await readCa(home), { ...names, role: 'device', id: 'sw1' }))
  await t.rejects(device.unary(WitnessMethods.Attest, { nonce, files: [] }), 'a device does not ask by itself')
  for (const name of await readdir(own)) {
    const text = await readFile(join(own, name), 'utf8')
    if (name === keyFile) t.notMatch(text, /seed"/, 'no seed in clear')
  }
  await writeFile(join(own, 'tls.json'), '{}')
  await server.close()
  await t.rejects(start(), { code: 'HOME_INVALID' })
})
