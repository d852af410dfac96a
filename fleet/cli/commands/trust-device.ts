/** offbox trust device, offbox trust anchors: what devices believe, and what they begin with. */
import type { Command } from 'commander'
import { FleetMethods } from '../../../proto/gen/fleet.ts'
import type { TrustStatus } from '../../../proto/gen/trust.ts'
import { readAnchors } from '../../home/home.ts'
import { action, type CommonOptions, leaf, remoteLeaf } from '../context.ts'
import { collect, publicKeyFrom } from '../keys.ts'
import { table, time } from '../output.ts'

export function deviceTrustCommand(group: Command): void {
  remoteLeaf(group, 'device <id>', 'what a device believes of the repository: root, versions, policy, trusted time, the witness', [
    'offbox trust device sw1',
    'offbox trust device sw1 --json',
  ]).action(
    action<CommonOptions, [string]>(async ({ print, controller }, _options, deviceId) => {
      const status = await controller(async (client) => await client.unary(FleetMethods.DeviceTrust, { deviceId }))
      print.result(status, () => statusText(deviceId, status))
    }),
  )
}

export function anchorsCommand(group: Command): void {
  leaf(group, 'anchors', 'what images carry of the repository and the witness; --renew for the next image', [
    'offbox trust anchors',
    'offbox trust anchors --renew',
    'offbox trust anchors --witness-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29',
  ])
    .option('--renew', 'begin with the newest root, and with the present time')
    .option('--witness-key <hex>', 'believe this witness, 64 hex digits; repeatable, in place of those there', collect)
    .action(
      action<CommonOptions & { renew?: boolean; witnessKey?: readonly string[] }, []>(async ({ home, print }, { renew = false, witnessKey }) => {
        const { writeTrustAnchors } = await import('../../trust/anchors.ts')
        const witnessKeys = witnessKey?.map((hex) => publicKeyFrom(hex, '--witness-key'))
        const changed = await writeTrustAnchors(home, { nowMs: Date.now(), renew, ...(witnessKeys ? { witnessKeys } : {}) })
        const { trust } = await readAnchors(home)
        const root = (JSON.parse(trust?.root ?? '{}') as { signed?: { version?: number } }).signed?.version ?? 0
        const facts = {
          changed,
          anchors: home.anchors,
          rootVersion: root,
          witnessKeyIds: [...(trust?.witnessKeys.keys() ?? [])],
          builtAtMs: trust?.builtAtMs ?? 0,
        }
        const witness = facts.witnessKeyIds.map((id) => id.slice(0, 16)).join(', ') || 'none: a diskless device believes whatever repository it is shown first'
        const next = changed ? '\nDevices go on with what their image says; the next one: offbox image build' : ''
        print.result(facts, `${home.anchors}: root version ${root}, no earlier than ${time(facts.builtAtMs)}, witness ${witness}${next}`)
      }),
    )
}

function statusText(deviceId: string, status: TrustStatus): string {
  if (!status.enforced) return `${deviceId} is a device for development: its image carries no trust anchors, and it runs whatever a bundle key signed`
  const { rootVersion, heights, policyVersion, policySha256, timeMs, timeSources, expiresMs, witnessNeed, needsWitness, problems } = status
  const sources = Object.entries(timeSources).sort(([, one], [, other]) => other - one)
  const need = { never: 'it asks no witness', 'without-store': 'asked after a start without a usable store', always: 'asked after every start' }[witnessNeed]
  const rows: [string, string | number][] = [
    ['root', rootVersion],
    ...Object.entries(heights).sort(([one], [other]) => (one < other ? -1 : 1)),
    ['policy', policyVersion === 0 ? 'none: nothing runs' : `${policyVersion} (sha256 ${policySha256.slice(0, 16)})`],
    ['metadata expires', time(expiresMs)],
    ['trusted time', `${time(timeMs)}, from ${sources[0]?.[0] ?? 'nothing'}`],
    ['witness', needsWitness ? 'WAITED FOR: nothing new is taken before it answers' : (need ?? witnessNeed)],
  ]
  return [table(['what', 'is at'], rows), ...problems.map((text) => `store: ${text}`)].join('\n')
}
