import t from 'tap'
import { command } from '../../fleet/lab/process.ts'
import { insideLab, labFor, noLab } from './lab-under-test.ts'

interface Seen {
  protocol: string
  port: number
  process: string
}

t.test('a device listens on its API port and BGP, says so itself, and the kernel agrees', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const lab = await labFor(t, { devices: 2, local: true })
  const info = await insideLab<{ listeners: Seen[]; deviceId: string; attestation: string }>(
    lab,
    'sw1',
    'return await rpc.unary(device.DeviceMethods.Info, {})',
  )
  t.equal(info.deviceId, 'sw1')
  t.equal(info.attestation, 'none', 'that the identity can be spoofed is not hidden')
  const told = info.listeners.filter((one) => one.protocol === 'tcp').map((one) => one.port)
  t.same(
    told.filter((port) => port !== 179),
    [9339],
  )
  const tables = await command('ip', ['netns', 'exec', `${lab.network.prefix}-d1`, 'cat', '/proc/net/tcp', '/proc/net/tcp6'])
  const listening = [...tables.matchAll(/^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A /gm)].map((match) => Number.parseInt(match[1] ?? '', 16))
  t.same([...new Set(told)].sort(), [...new Set(listening)].sort(), 'state 0A is LISTEN in /proc/net/tcp')
})
