import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { linkOperations } from '../../../agent/drivers/link.ts'
import { procOperations } from '../../../agent/drivers/proc.ts'
import type { LinkInterface, ProcCapability } from '../../../core/capabilities.ts'

type Reading = Awaited<ReturnType<ProcCapability['read']>>

function tree(t: Test, files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'obx-readings-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  return root
}

t.test('interfaces come in order of name, without loopback and without what is none', async (t) => {
  const counters = { rx_bytes: 1, tx_bytes: 2, rx_packets: 3, tx_packets: 4, rx_errors: 5, tx_errors: 6, rx_dropped: 7, tx_dropped: 8 }
  const files: Record<string, string> = { bonding_masters: '' }
  for (const name of ['lo', 'eth1', 'eth0']) {
    Object.assign(files, { [`${name}/operstate`]: 'up\n', [`${name}/address`]: '52:54:00:00:00:01\n', [`${name}/mtu`]: '1500\n' })
    for (const [counter, value] of Object.entries(counters)) files[`${name}/statistics/${counter}`] = `${value}\n`
  }
  // One that goes away while it is read.
  files['gone/operstate'] = 'down\n'
  const interfaces = (await linkOperations(tree(t, files))['interfaces']?.('test', undefined)) as LinkInterface[]
  t.same(
    interfaces.map(({ name }) => name),
    ['eth0', 'eth1'],
  )
  t.same(interfaces[0], {
    ...{ name: 'eth0', operStatus: 'up', mac: '52:54:00:00:00:01', mtu: 1500, inOctets: 1, outOctets: 2, inPackets: 3, outPackets: 4 },
    ...{ inErrors: 5, outErrors: 6, inDiscards: 7, outDiscards: 8 },
  })
})

t.test('CPU, memory and load are read as the kernel writes them', async (t) => {
  const root = tree(t, {
    stat: 'cpu  10 1 5 100 20 2 3 0 7 0\ncpu0 10 1 5 100 20 2 3 0 7 0\n',
    meminfo: 'MemTotal:        1024 kB\nMemFree:          1 kB\nMemAvailable:     512 kB\n',
    loadavg: '0.42 0.30 0.20 1/100 1234\n',
  })
  t.same(await procOperations(root)['read']?.('test', undefined), {
    cpuBusyMs: 210,
    cpuIdleMs: 1200,
    memoryTotalBytes: 1_048_576,
    memoryAvailableBytes: 524_288,
    load1: 0.42,
  })
})

t.test('the machine under this test gives numbers that can be true', async (t) => {
  const reading = (await procOperations()['read']?.('test', undefined)) as Reading
  t.equal(reading.memoryTotalBytes, totalmem())
  t.ok(reading.memoryAvailableBytes > 0 && reading.memoryAvailableBytes <= reading.memoryTotalBytes)
  const { user, nice, sys, irq } = cpus()
    .map(({ times }) => times)
    .reduce((sum, one) => ({ user: sum.user + one.user, nice: sum.nice + one.nice, sys: sum.sys + one.sys, irq: sum.irq + one.irq, idle: 0 }))
  t.ok(reading.cpuBusyMs > 0 && reading.cpuBusyMs <= (user + nice + sys + irq) * 1.5)
  t.type(await linkOperations()['interfaces']?.('test', undefined), Array)
})

t.test('a kernel table of another shape is an error, not a zero', async (t) => {
  const root = tree(t, { stat: 'nonsense\n', meminfo: '', loadavg: '' })
  await t.rejects(procOperations(root)['read']?.('test', undefined) ?? Promise.resolve(), { code: 'DRIVER_FAILED' })
})
