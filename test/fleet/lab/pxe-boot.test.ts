import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { accelerator } from '../../../fleet/lab/accelerator.ts'
import { serveDhcp } from '../../../fleet/lab/dhcp.ts'
import { DEBIAN_PACKAGES } from '../../../fleet/lab/needs.mjs'
import { createLabNetwork, LAB_ADDRESS, portOf } from '../../../fleet/lab/network.ts'
import { longRunning } from '../../../fleet/lab/process.ts'
import { createVm } from '../../../fleet/lab/vm.ts'
import { standIn } from '../../image/stand-in.ts'

const ROOT = join(import.meta.dirname, '../../..')
const BOOT_TIMEOUT_MS = 240_000
t.setTimeout(4 * BOOT_TIMEOUT_MS)

const missing = DEBIAN_PACKAGES.filter((one) => !existsSync(one.need)).map((one) => one.package)
const why = process.getuid?.() !== 0 ? 'needs root' : missing.length > 0 ? `needs ${missing.join(', ')}` : false

/** In place of the agent: ends at once on its first start, then asks process 1 to reboot the machine, once per power-on. */
const MAIN = `
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
const facts = { serial: readFileSync('/sys/class/dmi/id/product_serial', 'utf8').trim(), line: readFileSync('/proc/cmdline', 'utf8').trim() }
const state = { mounts: readFileSync('/proc/mounts', 'utf8').split('\\n').map((line) => line.split(' ')[1]), cards: readdirSync('/sys/class/net'), argv: process.argv.slice(1) }
if (!existsSync('/run/started')) { writeFileSync('/run/started', ''); console.log('STAND-IN first'); process.exit(3) }
console.log('STAND-IN again ' + JSON.stringify({ ...facts, ...state }))
setTimeout(() => { console.log('STAND-IN reboots'); process.kill(1, 'SIGTERM') }, 500)
`

t.test('a machine with no disk boots the image over the network, keeps its agent running, and reboots when told', { skip: why }, async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'offbox-pxe-'))
  const stop = new AbortController()
  const undo: (() => Promise<unknown>)[] = [() => rm(dir, { recursive: true, force: true })]
  t.teardown(async () => {
    stop.abort()
    for (const step of undo.reverse()) await step()
  })
  const { homeDir, agentDir } = await standIn(dir, MAIN)
  const imageDir = join(dir, 'image')
  await promisify(execFile)(process.execPath, ['image/build.ts', '--home', homeDir, '--agent', agentDir, '--out', imageDir], { cwd: ROOT })
  const log = (message: string, fields?: object) => t.comment(`${message} ${JSON.stringify(fields ?? {})}`)
  const network = await createLabNetwork(`obx-pxe-${process.pid}`, { log, signal: stop.signal })
  undo.push(() => network.remove())
  const port = portOf(7)
  const served = Promise.withResolvers<void>()
  const boot = await longRunning(process.execPath, [join(import.meta.dirname, 'serve-boot.ts'), imageDir, LAB_ADDRESS], {
    namespace: network.namespace,
    onLine: (line) => (line === 'ready' ? served.resolve() : t.comment(line)),
  })
  undo.push(() => boot.stop())
  await served.promise
  const dhcp = await serveDhcp({ network, ports: [port], bootUrl: `http://${LAB_ADDRESS}:8080/boot.ipxe`, workDir: dir, log, signal: stop.signal })
  undo.push(() => dhcp.close())
  const chosen = await accelerator(imageDir, { log, signal: stop.signal })
  const consoleFile = join(dir, 'console.log')
  const vm = await createVm({ name: 'd7', network, port, serial: 'OBX-0007', accelerator: chosen, consoleFile, signal: stop.signal, log })
  undo.push(() => vm.close())

  await vm.powerOn()
  await vm.console.waitFor(/STAND-IN first/, { timeoutMs: BOOT_TIMEOUT_MS })
  await vm.console.waitFor(/init: the agent ended/, { timeoutMs: BOOT_TIMEOUT_MS })
  const line = await vm.console.waitFor(/STAND-IN again/, { timeoutMs: BOOT_TIMEOUT_MS })
  t.comment(`power-on to the second start of the stand-in under ${chosen.name}: ${((performance.now() - vm.poweredOnAtMs) / 1000).toFixed(1)} s`)
  const facts = JSON.parse(line.slice(line.indexOf('{')))
  t.equal(facts.serial, 'OBX-0007')
  for (const word of [
    `ip=${port.address}`,
    'mask=255.255.255.0',
    `gateway=${LAB_ADDRESS}`,
    `mac=${port.mac}`,
    'serial=OBX-0007',
    'controller=10.77.0.1:9341',
  ]) {
    t.ok(facts.line.split(' ').includes(`offbox.${word}`), word)
  }
  t.same(facts.argv, ['/app/main.mjs', '--image'])
  for (const mount of ['/dev', '/proc', '/run', '/state', '/sys', '/tmp']) t.ok(facts.mounts.includes(mount), mount)
  t.equal(facts.cards.length, 2, 'the loopback and one network card')

  await vm.console.waitFor(/init: rebooting/, { timeoutMs: BOOT_TIMEOUT_MS })
  const rebooted = vm.console.count
  await vm.console.waitFor(/STAND-IN first/, { timeoutMs: BOOT_TIMEOUT_MS, from: rebooted })
  t.ok(vm.running, 'a reboot is not a power-off')

  await vm.powerOff()
  t.notOk(vm.running)
  const off = vm.console.count
  await vm.powerOn()
  await vm.console.waitFor(/iPXE/, { timeoutMs: BOOT_TIMEOUT_MS, from: off })
  await vm.close()
  t.match(await readFile(consoleFile, 'utf8'), /STAND-IN again/)
})
