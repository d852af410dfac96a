/** offbox service … */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import { FleetMethods } from '../../../proto/gen/fleet.ts'
import { type Change, ChangeState, type ServiceEvent, ServiceState, type ServiceStatus } from '../../../proto/gen/lifecycle.ts'
import { healthOf } from '../../device/gate.ts'
import { newService, ownCheckout } from '../../scaffold/scaffold.ts'
import { callsText, circuitText } from '../calls.ts'
import { action, type CommonOptions, leaf, remoteLeaf } from '../context.ts'
import { explain, explanationText } from '../explain.ts'
import { printable, table, time } from '../output.ts'
import { receiptsCommand } from './receipts.ts'
import { USAGE_HEAD, usageRow } from '../usage.ts'

export function serviceCommands(root: Command): void {
  const group = root.command('service').description('what runs on a device, and new services')

  remoteLeaf(group, 'list <device>', 'services of a device, as it has them now', ['offbox service list sw1', 'offbox service list sw1 --json']).action(
    action<CommonOptions, [string]>(async ({ print, controller }, _options, deviceId) => {
      const { services } = await controller(async (client) => await client.unary(FleetMethods.ListDeviceServices, { deviceId }))
      print.result({ deviceId, services: services.map(named) }, () => {
        const rows = services.map((one) => [
          one.service,
          one.version,
          one.tier,
          ServiceState[one.state] ?? '?',
          health(one),
          one.change ? changeText(one.change) : '',
          one.starts,
          callsText(one),
        ])
        return table(['service', 'version', 'tier', 'state', 'health', 'change', 'starts', 'calls'], rows, `${deviceId} runs no service`)
      })
    }),
  )

  remoteLeaf(group, 'watch <device> [service]', 'every transition and change on a device, until Ctrl-C', [
    'offbox service watch sw1',
    'offbox service watch sw1 telemetry --json',
  ]).action(
    action<CommonOptions, [string, string | undefined]>(async ({ print, controller, signal }, _options, deviceId, service) => {
      await controller(async (client) => {
        for await (const event of client.serverStream(FleetMethods.WatchDeviceServices, { deviceId, service: service ?? '' }, { signal })) {
          print.item({ ...event, status: event.status && named(event.status) }, () => eventText(event))
        }
      })
    }),
  )

  remoteLeaf(group, 'usage <device>', 'what each service uses of its limits', ['offbox service usage sw1', 'offbox service usage sw1 --json']).action(
    action<CommonOptions, [string]>(async ({ print, controller }, _options, deviceId) => {
      const { services } = await controller(async (client) => await client.unary(FleetMethods.ListDeviceServices, { deviceId }))
      const usage = services.map(({ service, version, usage }) => ({ service, version, usage }))
      print.result({ deviceId, usage }, () => table(USAGE_HEAD, services.map(usageRow), `${deviceId} runs no service`))
    }),
  )

  remoteLeaf(group, 'explain <device> <service>', 'why a service is in its state, what will happen next and when', [
    'offbox service explain sw1 telemetry',
    'offbox service explain sw1 telemetry --json',
  ]).action(
    action<CommonOptions, [string, string]>(async ({ print, controller }, _options, deviceId, service) => {
      const { services } = await controller(async (client) => await client.unary(FleetMethods.ListDeviceServices, { deviceId }))
      const status = services.find((one) => one.service === service)
      if (!status) throw new OffboxError('SERVICE_NOT_FOUND', `${deviceId} has no service ${JSON.stringify(service)}; see offbox service list ${deviceId}`)
      const explanation = explain(status, Date.now())
      print.result({ deviceId, ...explanation, status: named(status) }, () => printable(explanationText(explanation)))
    }),
  )

  receiptsCommand(group)

  leaf(group, 'new <name>', 'write a working service with its tests into the checkout', ['offbox service new hello', 'offbox service new hello --dir ~/offbox'])
    .option('--dir <dir>', 'another checkout (default: the one this command belongs to)')
    .action(
      action<NewOptions, [string]>(async ({ print }, options, name) => {
        const made = await newService(name, options.dir === undefined ? ownCheckout : resolve(options.dir))
        print.result(made, `wrote ${made.files.join(', ')}\nTest it: npm test -- test/services/${name}/${name}.test.ts\nFurther: docs/writing-a-service.md`)
      }),
    )
}

interface NewOptions extends CommonOptions {
  readonly dir?: string
}

/** Enums by name: numbers mean nothing to a reader of JSON. */
function named(status: ServiceStatus): object {
  const change = status.change && { ...status.change, state: ChangeState[status.change.state] }
  const history = status.history.map((one) => ({ ...one, from: ServiceState[one.from], to: ServiceState[one.to] }))
  return { ...status, state: ServiceState[status.state], health: status.health && { ...status.health, status: healthOf(status) }, change, history }
}

function health(status: ServiceStatus): string {
  const reason = status.health?.reason
  return reason ? `${healthOf(status)}: ${reason}` : healthOf(status)
}

function changeText(change: Change): string {
  return `${change.kind} ${change.from ? `${change.from} -> ` : ''}${change.to} ${ChangeState[change.state] ?? '?'}`
}

function eventText({ atMs, status, transition, change, circuit, removed }: ServiceEvent): string {
  const head = `${time(atMs)}  ${status?.service ?? ''}`
  if (removed) return `${head}  removed`
  if (transition) {
    const { from, to, event, version, reason } = transition
    return `${head} ${version}  ${ServiceState[from]} -> ${ServiceState[to]}  (${event}${reason ? `: ${reason}` : ''})`
  }
  if (circuit) return `${head}  ${circuitText(circuit)}`
  if (change) return `${head}  ${changeText(change)}${change.reason ? `  (${change.reason})` : ''}`
  return `${head} ${status?.version ?? ''}  ${ServiceState[status?.state ?? 0]}  ${status ? health(status) : ''}`
}
