/** offbox device … */
import { type Command, InvalidArgumentError } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import type { LogRecord } from '../../../proto/gen/device.ts'
import { type DesiredService, type FleetDevice, FleetMethods } from '../../../proto/gen/fleet.ts'
import { RoutingConfig } from '../../../proto/gen/routing.ts'
import { action, type CommonOptions, remoteLeaf } from '../context.ts'
import { printable, table, time } from '../output.ts'

interface LogOptions extends CommonOptions {
  readonly follow?: boolean
  readonly service?: string
  readonly level?: string
  readonly tail?: number
  readonly contains?: string
  readonly audit?: boolean
}

interface DesireOptions extends CommonOptions {
  readonly service?: string[]
  readonly drop?: string[]
  /** A file, or false for --no-routing. */
  readonly routing?: string | false
}

export function deviceCommands(root: Command): void {
  const group = root.command('device').description('the devices of the fleet')

  remoteLeaf(group, 'add <id>', 'register a device, so that it may enrol', ['offbox device add sw1 --serial SN-0001 --mac 52:54:00:0b:00:01'])
    .requiredOption('--serial <serial>', 'SMBIOS serial number')
    .requiredOption('--mac <mac>', 'MAC address of the interface it boots from')
    .action(
      action<CommonOptions & { serial: string; mac: string }, [string]>(async ({ print, controller }, { serial, mac }, deviceId) => {
        const device = await controller(async (client) => await client.unary(FleetMethods.AddDevice, { deviceId, serial, mac }))
        print.result(device, `${device.deviceId} is registered (serial ${device.serial}, MAC ${device.mac}); it enrols when it boots`)
      }),
    )

  remoteLeaf(group, 'list', 'all devices and where they are', ['offbox device list', 'offbox device list --json']).action(
    action<CommonOptions, []>(async ({ print, controller }) => {
      const { devices } = await controller(async (client) => await client.unary(FleetMethods.ListDevices, {}))
      const row = (one: FleetDevice) => [
        one.deviceId,
        one.phase,
        one.address ? `${one.address}:${one.port}` : '-',
        one.boot,
        time(one.enrolledAtMs),
        desiredText(one),
        one.reason,
      ]
      print.result({ devices }, () =>
        table(['id', 'phase', 'address', 'boot', 'enrolled', 'desired', 'reason'], devices.map(row), 'no device is registered: offbox device add'),
      )
    }),
  )

  remoteLeaf(group, 'get <id>', 'one device, with what it says of itself', ['offbox device get sw1', 'offbox device get sw1 --json']).action(
    action<CommonOptions, [string]>(async ({ print, controller }, _options, deviceId) => {
      const device = await controller(async (client) => await client.unary(FleetMethods.GetDevice, { deviceId }))
      const routing = device.desired && device.desired.routingConfig.length > 0 ? RoutingConfig.decode(device.desired.routingConfig) : null
      print.result({ ...device, desiredRouting: routing }, () => details(device))
    }),
  )

  remoteLeaf(group, 'logs <id>', 'log records of a device', [
    'offbox device logs sw1 --tail 50',
    'offbox device logs sw1 -f --service telemetry',
    'offbox device logs sw1 --audit',
  ])
    .option('-f, --follow', 'stay and show new records, until Ctrl-C')
    .option('--service <name>', 'only of this service ("agent" for the agent itself)')
    .option('--level <level>', 'lowest level shown: trace, debug, info, warn, error, fatal')
    .option('--tail <n>', 'newest stored records first, at most', count)
    .option('--contains <text>', 'only records that contain it')
    .option('--audit', 'only audit records')
    .action(
      action<LogOptions, [string]>(async ({ print, controller, signal }, options, deviceId) => {
        const { follow = false, service = '', level: minLevel = '', tail = 0, contains = '', audit: auditOnly = false } = options
        const logs = { follow, service, minLevel, tail, contains, auditOnly }
        await controller(async (client) => {
          for await (const record of client.serverStream(FleetMethods.DeviceLogs, { deviceId, logs }, { signal })) print.item(record, () => logLine(record))
        })
      }),
    )

  remoteLeaf(group, 'metrics <id>', 'numbers of the agent and of every service, as Prometheus reads them', ['offbox device metrics sw1']).action(
    action<CommonOptions, [string]>(async ({ print, controller }, _options, deviceId) => {
      const metrics = await controller(async (client) => await client.unary(FleetMethods.DeviceMetrics, { deviceId }))
      print.result({ deviceId, ...metrics }, printable(metrics.text.trimEnd()))
    }),
  )

  remoteLeaf(group, 'desire <id>', 'change what a device should run; the controller brings it there, now and after each boot', [
    'offbox device desire sw1 --service telemetry=1.1.0 --service routing=1.0.0',
    'offbox device desire sw1 --routing sw1.yaml',
    'offbox device desire sw1 --drop telemetry',
  ])
    .option('--service <name=version...>', 'this version of this service; the others stay as they are')
    .option('--drop <name...>', 'no longer this service; it is removed from the device')
    .option('--routing <file>', 'this routing configuration (YAML or JSON, docs/configuration.md)')
    .option('--no-routing', 'no routing configuration; the device keeps what it has until it boots')
    .action(
      action<DesireOptions, [string]>(async ({ print, controller }, options, deviceId) => {
        const wanted = (options.service ?? []).map(nameAndVersion)
        const routing = typeof options.routing === 'string' ? await routingOf(options.routing) : null
        const device = await controller(async (client) => {
          const now = await client.unary(FleetMethods.GetDevice, { deviceId })
          const desired = {
            services: mergeServices(now.desired?.services ?? [], wanted, options.drop ?? []),
            routingConfig: routing ?? (options.routing === false ? new Uint8Array() : (now.desired?.routingConfig ?? new Uint8Array())),
          }
          return await client.unary(FleetMethods.SetDesired, { deviceId, desired })
        })
        print.result(device, `${deviceId} should run: ${desiredText(device) || 'nothing'}`)
      }),
    )

  remoteLeaf(group, 'rotate <id>', 'give a device a new API key and certificate', ['offbox device rotate sw1 --reason "quarterly"'])
    .option('--reason <text>', "for the device's audit log", 'ordered by the operator')
    .action(
      action<CommonOptions & { reason: string }, [string]>(async ({ print, controller }, { reason }, deviceId) => {
        const options = { deadlineMs: 120_000 }
        const rotation = await controller(async (client) => await client.unary(FleetMethods.RotateDeviceIdentity, { deviceId, reason }, options))
        print.result(rotation, `${deviceId}: certificate ${rotation.oldSerial} -> ${rotation.newSerial}`)
      }),
    )
}

async function routingOf(file: string): Promise<Uint8Array> {
  const { readRoutingFile } = await import('../../config/routing.ts')
  return RoutingConfig.encode(await readRoutingFile(file))
}

/** In the old order, new ones last. */
export function mergeServices(now: readonly DesiredService[], wanted: readonly DesiredService[], drop: readonly string[]): DesiredService[] {
  const merged = new Map([...now, ...wanted].map((one) => [one.service, one]))
  for (const name of drop) {
    if (!merged.delete(name)) throw new OffboxError('ARGUMENT_INVALID', `--drop ${name}: it is not desired`)
  }
  return [...merged.values()]
}

function nameAndVersion(text: string): DesiredService {
  const [, service, version] = /^([^=]+)=([^=]+)$/.exec(text) ?? []
  if (service === undefined || version === undefined) throw new OffboxError('ARGUMENT_INVALID', `--service must be NAME=VERSION, got ${JSON.stringify(text)}`)
  return { service, version }
}

function desiredText({ desired }: FleetDevice): string {
  const services = (desired?.services ?? []).map(({ service, version }) => `${service} ${version}`)
  return [...services, ...(desired && desired.routingConfig.length > 0 ? ['routing configuration'] : [])].join(', ')
}

function details(device: FleetDevice): string {
  const { info } = device
  const rows: [string, string | number][] = [
    ['id', device.deviceId],
    ['phase', `${device.phase}${device.reason ? `: ${device.reason}` : ''}`],
    ['serial, MAC', `${device.serial}, ${device.mac} (not attested)`],
    ['address', device.address ? `${device.address}:${device.port}` : '-'],
    ['enrolled', `${time(device.enrolledAtMs)}, ${device.enrolments} times, last ${(device.powerOnToEnrolMs / 1000).toFixed(1)} s after power-on`],
    ['in sync since', time(device.inSyncAtMs)],
    ['boot', `${device.boot} ${device.bootId}`],
    ['desired', desiredText(device) || '-'],
  ]
  if (info) {
    rows.push(
      [
        'agent',
        `${info.agentVersion}, Node ${info.nodeVersion}, kernel ${info.kernel}, ${info.agentStarts} starts, ${(info.agentRssBytes / 1e6).toFixed(0)} MB`,
      ],
      ['up', `${(info.uptimeMs / 1000).toFixed(0)} s, agent ${(info.agentUptimeMs / 1000).toFixed(0)} s`],
      ['certificate', `${info.certificateSerial}, until ${time(info.certificateNotAfterMs)}`],
      ['listens', info.listeners.map((one) => `${one.protocol} ${one.address}:${one.port} (${one.process || '?'})`).join(', ')],
      [
        'floors',
        Object.entries(info.floors)
          .map(([name, floor]) => `${name} ${floor}`)
          .join(', ') || '-',
      ],
    )
  } else if (device.enrolments > 0) {
    rows.push(['info', 'the device does not answer now'])
  }
  return rows.map(([name, value]) => `${name.padEnd(14)} ${printable(String(value))}`).join('\n')
}

function logLine({ atMs, level, service, message, fieldsJson, dropped }: LogRecord): string {
  const lost = dropped > 0 ? `… ${dropped} records dropped …\n` : ''
  return printable(
    `${lost}${new Date(atMs).toISOString()} ${level.padEnd(5)} ${service}  ${message}${fieldsJson && fieldsJson !== '{}' ? `  ${fieldsJson}` : ''}`,
  )
}

function count(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number')
  return Number(text)
}
