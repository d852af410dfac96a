/** offbox rollout … */
import { type Command, InvalidArgumentError } from 'commander'
import { FleetMethods, type Rollout } from '../../../proto/gen/fleet.ts'
import type { RpcClient } from '../../rpc/client.ts'
import { action, type CommonOptions, type Context, remoteLeaf } from '../context.ts'
import { EXIT, table, time } from '../output.ts'

interface StartOptions extends CommonOptions {
  readonly device?: string[]
  readonly canary?: string
  readonly bake?: number
  readonly confirm?: number
  readonly allowDowngrade?: boolean
  readonly watch?: boolean
}

export function rolloutCommands(root: Command): void {
  const group = root.command('rollout').description('bring a version to many devices: one canary, a bake, then the rest one by one')

  remoteLeaf(group, 'start <service> <version>', 'start a rollout; it goes on in the controller', [
    'offbox rollout start telemetry 1.1.0 --watch',
    'offbox rollout start telemetry 1.1.0 --canary sw2 --bake 60',
    'offbox rollout start telemetry 1.0.0 --device sw1 --allow-downgrade',
  ])
    .option('--device <id...>', 'only these devices (default: all that run the service)')
    .option('--canary <id>', 'the device that goes first (default: the first)')
    .option('--bake <seconds>', 'how long it must stay healthy on each device (default: offbox.yaml)', seconds)
    .option('--confirm <seconds>', 'time-out after which a device undoes it by itself (default: bake + 50)', seconds)
    .option('--allow-downgrade', 'permit a version lower than what runs')
    .option('--watch', 'stay and show every step; exit 3 unless it succeeds')
    .action(
      action<StartOptions, [string, string]>(async (context, options, service, version) => {
        const request = {
          service,
          version,
          deviceIds: options.device ?? [],
          canary: options.canary ?? '',
          allowDowngrade: options.allowDowngrade ?? false,
          ...(options.bake === undefined ? {} : { bakeMs: options.bake * 1000 }),
          ...(options.confirm === undefined ? {} : { confirmTimeoutMs: options.confirm * 1000 }),
        }
        await context.controller(async (client) => {
          const rollout = await client.unary(FleetMethods.StartRollout, request)
          if (options.watch) return await watch(context, client, rollout.rolloutId)
          context.print.result(rollout, `${summary(rollout)}\n\nNext: offbox rollout watch ${rollout.rolloutId}`)
        })
      }),
    )

  remoteLeaf(group, 'watch [id]', 'every step of a rollout (default: the newest) until it has ended; exit 3 unless it succeeds', [
    'offbox rollout watch',
    'offbox rollout watch r-0007 --json',
  ]).action(
    action<CommonOptions, [string | undefined]>(async (context, _options, id) => {
      await context.controller(async (client) => await watch(context, client, id ?? ''))
    }),
  )

  remoteLeaf(group, 'get [id]', 'a rollout as it is (default: the newest)', ['offbox rollout get', 'offbox rollout get r-0007']).action(
    action<CommonOptions, [string | undefined]>(async ({ print, controller }, _options, id) => {
      const rollout = await controller(async (client) => await client.unary(FleetMethods.GetRollout, { rolloutId: id ?? '' }))
      print.result(rollout, () => details(rollout))
    }),
  )

  remoteLeaf(group, 'list', 'all rollouts, newest first', ['offbox rollout list']).action(
    action<CommonOptions, []>(async ({ print, controller }) => {
      const { rollouts } = await controller(async (client) => await client.unary(FleetMethods.ListRollouts, {}))
      print.result({ rollouts }, () => {
        const done = (one: Rollout) => `${one.devices.filter(({ state }) => state === 'done').length}/${one.devices.length}`
        const rows = rollouts.map((one) => [one.rolloutId, one.service, one.version, one.state, done(one), time(one.startedAtMs), time(one.endedAtMs)])
        return table(['id', 'service', 'version', 'state', 'done', 'started', 'ended'], rows, 'there was no rollout yet')
      })
    }),
  )

  remoteLeaf(group, 'abort [id]', 'touch no further device, put back the one under way; returns when it has ended', [
    'offbox rollout abort',
    'offbox rollout abort r-0007 --reason "wrong version"',
  ])
    .option('--reason <text>', 'kept in its history')
    .action(
      action<CommonOptions & { reason?: string }, [string | undefined]>(async ({ print, controller }, options, id) => {
        const request = { rolloutId: id ?? '', reason: options.reason ?? '' }
        // It ends within the time-outs of one device (ATTEMPT_LIMITS), with room for a slow one.
        const rollout = await controller(async (client) => await client.unary(FleetMethods.AbortRollout, request, { deadlineMs: 120_000 }))
        print.result(rollout, () => details(rollout))
      }),
    )
}

async function watch(context: Context, client: RpcClient, rolloutId: string): Promise<void> {
  const shown = new Map<string, string>()
  let last: Rollout | undefined
  for await (const rollout of client.serverStream(FleetMethods.WatchRollout, { rolloutId }, { signal: context.signal })) {
    if (!last && !context.print.json) process.stdout.write(`${summary(rollout)}\n`)
    last = rollout
    if (context.print.json) context.print.item(rollout, '')
    else for (const line of news(rollout, shown)) process.stdout.write(`${line}\n`)
  }
  if (context.signal.aborted) {
    context.print.note('The rollout goes on in the controller; offbox rollout abort ends it.')
    context.exitCode = EXIT.interrupted
  } else if (last) {
    if (!context.print.json) process.stdout.write(`${last.rolloutId} ${last.state}: ${last.reason}\n`)
    if (last.state !== 'succeeded') context.exitCode = EXIT.rolloutNotSucceeded
  }
}

/** The devices whose state has changed since the last time. */
function news(rollout: Rollout, shown: Map<string, string>): string[] {
  const lines: string[] = []
  for (const device of rollout.devices) {
    const text = `${device.state}${device.error ? ` ${device.error}` : ''}  ${device.reason}`
    if (shown.get(device.deviceId) === text) continue
    const first = !shown.has(device.deviceId)
    shown.set(device.deviceId, text)
    if (first && device.state === 'pending') continue
    lines.push(`${time(device.atMs)}  ${device.deviceId}${device.canary ? ' (canary)' : ''}  ${text}`)
  }
  return lines
}

function summary(rollout: Rollout): string {
  const { rolloutId, service, version, state, devices, bakeMs } = rollout
  return `${rolloutId} ${service} ${version} ${state}: ${devices.length} devices, ${devices[0]?.deviceId ?? 'none'} first, bake ${bakeMs / 1000} s`
}

function details(rollout: Rollout): string {
  const rows = rollout.devices.map((one) => [
    one.deviceId,
    one.canary ? 'canary' : '',
    one.state,
    one.fromVersion,
    one.attempt,
    one.heldMs ? one.heldMs.toFixed(1) : '',
    time(one.atMs),
    one.error ? `${one.error}: ${one.reason}` : one.reason,
  ])
  return `${summary(rollout)}\n${rollout.reason}\n\n${table(['device', '', 'state', 'from', 'attempt', 'held ms', 'at', 'reason'], rows)}`
}

function seconds(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value) || value < 0 || value > 86_400) throw new InvalidArgumentError('must be a number of seconds, 0 to 86400')
  return value
}
