import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import t from 'tap'
import { parseCommandLine } from '../../../agent/boot/command-line.ts'
import { checkIdentity } from '../../../agent/boot/identity.ts'
import { takeLock } from '../../../agent/boot/lock.ts'
import { readStartFacts } from '../../../agent/boot/start-facts.ts'
import { parseConfig } from '../../../agent/config.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import { AGENT_VERSION } from '../../../agent/version.ts'
import type { Anchors } from '../../../core/anchors.ts'
import { makeCa, makeCsr, signCsr } from '../../../core/x509.ts'

const words =
  'offbox.ip=10.77.0.11 offbox.mask=255.255.255.0 offbox.gateway=10.77.0.1 offbox.mac=52:54:00:AA:00:01 offbox.serial=SN%201 offbox.controller=10.77.0.1:9341'

t.test('the words of iPXE are read among those of others', async (t) => {
  t.same(parseCommandLine(`BOOT_IMAGE=vmlinuz console=ttyS0 panic=5 ${words} quiet\n`), {
    address: '10.77.0.11',
    prefixLength: 24,
    gateway: '10.77.0.1',
    mac: '52:54:00:aa:00:01',
    serial: 'SN 1',
    controller: { address: '10.77.0.1', port: 9341 },
  })
  t.match(parseCommandLine(words.replace('offbox.gateway=10.77.0.1', 'offbox.gateway=').replace('SN%201', '')), { gateway: '', serial: '' })
})

t.test('a word that is missing or malformed is named', async (t) => {
  const cases: [string, string, RegExp][] = [
    ['offbox.ip=10.77.0.11', '', /offbox\.ip=/],
    ['offbox.mask=255.255.255.0', 'offbox.mask=255.0.255.0', /offbox\.mask=255\.0\.255\.0/],
    ['offbox.mac=52:54:00:AA:00:01', 'offbox.mac=nonsense', /offbox\.mac/],
    [':9341', '', /offbox\.controller/],
    ['offbox.gateway=10.77.0.1', 'offbox.gateway=;reboot', /offbox\.gateway/],
  ]
  for (const [from, to, message] of cases) t.throws(() => parseCommandLine(words.replace(from, to)), { code: 'CONFIG_INVALID', message })
})

t.test('a local configuration names field and rule', async (t) => {
  const good = {
    boot: 'local',
    serial: 's',
    mac: 'm',
    address: '127.0.0.1',
    port: 9339,
    stateDir: '/s',
    runDir: '/r',
    controller: { address: 'c', port: 1 },
    anchorsFile: '/a',
  }
  t.match(parseConfig(JSON.stringify(good)), { birdCommand: '/usr/sbin/bird', logLevel: 'info' })
  const refused = (over: object, message: RegExp) => t.throws(() => parseConfig(JSON.stringify({ ...good, ...over })), { code: 'CONFIG_INVALID', message })
  refused({ port: 0 }, /"port"/)
  refused({ port: '9339' }, /"port"/)
  refused({ serial: undefined }, /"serial"/)
  refused({ statedir: '/x' }, /unknown field "statedir"/)
  refused({ controller: 'x' }, /"controller"/)
  refused({ boot: 'pxe' }, /"boot"/)
  refused({ logLevel: 'loud' }, /"logLevel"/)
  t.throws(() => parseConfig('{'), { code: 'CONFIG_INVALID', message: /not JSON/ })
})

t.test('the version is that of package.json', async (t) => {
  t.equal(AGENT_VERSION, (JSON.parse(await readFile('package.json', 'utf8')) as { version: string }).version)
})

t.test('one process holds the lock; a dead or reused pid does not', async (t) => {
  const directory = t.testdir()
  const release = await takeLock(directory)
  await t.rejects(takeLock(directory), { code: 'HOME_IN_USE' })
  await release()
  const child = spawn('sleep', ['60'])
  const stat = await readFile(`/proc/${child.pid}/stat`, 'utf8')
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
  const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  await writeFile(`${directory}/lock`, `${child.pid} ${started} ${bootId}`)
  await t.rejects(takeLock(directory), { code: 'HOME_IN_USE', message: new RegExp(`process ${child.pid}`) })
  await writeFile(`${directory}/lock`, `${child.pid} 1 ${bootId}`)
  await (await takeLock(directory))()
  await writeFile(`${directory}/lock`, `${child.pid} ${started} ${bootId}`)
  child.kill()
  await once(child, 'exit')
  const both = await Promise.allSettled([takeLock(directory)])
  t.equal(both[0]?.status, 'fulfilled')
})

t.test('starts are counted within one boot, and the boot keeps its id', async (t) => {
  const files = new AtomicFiles()
  const directory = t.testdir()
  const first = await readStartFacts(files, directory, 'local')
  t.match(first, { bootId: /^[0-9a-f]{32}$/, agentStarts: 1 })
  t.same(await readStartFacts(files, directory, 'local'), { ...first, agentStarts: 2 })
})

t.test('a certificate serves only with its key, its CA, its names and its time', async (t) => {
  const nowMs = Date.now()
  const dayMs = 86_400_000
  const ca = await makeCa('lab', { nowMs, validMs: 9 * dayMs })
  const anchors: Anchors = { fleet: 'lab', caPem: ca.certificatePem, bundleKeys: new Map() }
  const { keyPem, csrPem } = await makeCsr('x')
  const chainPem = await signCsr(ca, csrPem, { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs })
  const identity = { deviceId: 'sw1', keyPem, chainPem }
  checkIdentity(identity, anchors, nowMs)
  const refused = (over: object, message: RegExp, at = nowMs) =>
    t.throws(() => checkIdentity({ ...identity, ...over }, anchors, at), { code: 'CERTIFICATE_INVALID', message })
  refused({ keyPem: (await makeCsr('x')).keyPem }, /another key/)
  refused({ deviceId: 'sw2' }, /names spiffe:\/\/lab\/device\/sw1/)
  refused({ chainPem: 'rubbish' }, /cannot be used/)
  refused({ chainPem: 'x'.repeat(100_000) }, /more than/)
  refused({}, /expired/, nowMs + 2 * dayMs)
  refused({ chainPem: await signCsr(ca, csrPem, { fleet: 'lab', role: 'operator', id: 'sw1', nowMs, validMs: dayMs }) }, /names spiffe:\/\/lab\/operator/)
  const other = await makeCa('lab', { nowMs, validMs: dayMs })
  refused({ chainPem: await signCsr(other, csrPem, { fleet: 'lab', role: 'device', id: 'sw1', nowMs, validMs: dayMs }) }, /fleet CA did not issue/)
})
