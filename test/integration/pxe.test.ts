import t from 'tap'
import { inSync } from '../../fleet/lab/bring-up.ts'
import { passed, powerCycle } from '../drill/power-cycle.ts'
import { insideLab, labFor, noLab } from './lab-under-test.ts'

/** One real machine beside one agent process: what a PXE boot shows, at half the price of two machines. */
t.test('a machine boots over the network, joins the fleet, and comes back by itself after a power cut', { skip: noLab('pxe'), timeout: 880_000 }, async (t) => {
  const lab = await labFor(t, { devices: 2, local: false, virtual: 1 })
  t.equal(lab.boot, 'pxe')
  type Info = { boot: string; serial: string; mac: string; bootId: string; imageSha256: string; listeners: { protocol: string; port: number }[] }
  const ask = async () => await insideLab<Info>(lab, 'sw1', 'return await rpc.unary(device.DeviceMethods.Info, {})')
  const before = await ask()
  t.match(before, { boot: 'pxe', serial: lab.devices[0]?.serial, mac: lab.devices[0]?.port.mac })
  t.match(before.imageSha256, /^[0-9a-f]{64}$/)
  const ports = before.listeners.filter((one) => one.protocol === 'tcp').map((one) => one.port)
  t.same([...new Set(ports)].sort(), [179, 9339], 'one API port beside BGP')

  const seen = await powerCycle(lab, { say: (line) => t.comment(line), signal: lab.signal })
  t.comment(`power-on to serving ${seen.powerOnToServingSeconds.toFixed(1)} s, to in sync ${seen.powerOnToInSyncSeconds.toFixed(1)} s`)
  t.ok(passed(lab, seen), JSON.stringify(seen))
  const after = await ask()
  t.not(after.bootId, before.bootId, 'it did boot anew')
  t.equal(after.imageSha256, before.imageSha256)

  const ordered = await insideLab<{ atMs: number }>(lab, 'sw1', "return await rpc.unary(device.DeviceMethods.Reboot, { delayMs: 500, reason: 'test' })")
  t.ok(ordered.atMs > 0, 'a reboot is answered before it happens')
  while ((await lab.client.devices()).find((one) => one.deviceId === 'sw1')?.bootId === after.bootId) await new Promise((resolve) => setTimeout(resolve, 200))
  await inSync(lab.client, lab.machines.slice(0, 1), { say: (line) => t.comment(line), signal: lab.signal })
  t.not((await ask()).bootId, after.bootId, 'and the device comes back from the network once more')
})
