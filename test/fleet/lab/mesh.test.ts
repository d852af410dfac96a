import t from 'tap'
import { LAB, labDevices, meshConfig } from '../../../fleet/lab/mesh.ts'

t.test('every device has a session with every other one, and no two share an address, MAC, serial, AS or prefix', async (t) => {
  const devices = labDevices(LAB.devicesMax)
  for (const key of ['id', 'serial', 'localAs', 'prefix'] as const) t.equal(new Set(devices.map((one) => one[key])).size, devices.length, key)
  for (const key of ['mac', 'address'] as const) t.equal(new Set(devices.map((one) => one.port[key])).size, devices.length, key)
  for (const device of devices) {
    const { neighbors } = meshConfig(device, devices)
    t.same(
      neighbors?.map((one) => one.address),
      devices.filter((other) => other !== device).map((other) => other.port.address),
    )
  }
})
