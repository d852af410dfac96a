/** offbox trust policy … */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import { CAPABILITIES, type Capability, TIERS, type Tier } from '../../../core/manifest.ts'
import { type Policy, policyBytesMax, type ServicePolicy } from '../../../core/policy.ts'
import { type Home, readAnchors } from '../../home/home.ts'
import type { BundleKeys } from '../../registry/verify.ts'
import type { PolicyWish } from '../../trust/policy.ts'
import { action, type CommonOptions, type Context, leaf } from '../context.ts'
import { readBundleFile, readInput } from '../files.ts'
import { collect, type KeyOptions, trustContext, withKeys } from '../keys.ts'
import { table } from '../output.ts'

interface AllowOptions extends KeyOptions {
  readonly bundle?: string
  readonly key?: readonly string[]
  readonly capability?: readonly string[]
  readonly tier?: readonly string[]
}

export function policyCommands(trust: Command): void {
  const group = trust.command('policy').description('which keys may ship which service to devices, with which capabilities, in which tier')

  leaf(group, 'show', 'the policy in force; needs no passphrase', ['offbox trust policy show', 'offbox trust policy show --json > policy.json']).action(
    action<CommonOptions, []>(async ({ home, print }) => {
      const { readPolicyOf } = await import('../../trust/policy.ts')
      const { readTrust } = await import('../../trust/trust.ts')
      const found = await readPolicyOf(home.trust, await readTrust(home.trust))
      if (!found) {
        print.result({ version: 0, services: {} }, 'there is no policy: devices run nothing. Begin with: offbox trust policy allow SERVICE --bundle FILE')
        return
      }
      print.result(found.policy, () => policyText(found.policy))
    }),
  )

  withKeys(
    leaf(group, 'set <file>', 'put a whole policy in place of the one in force: JSON, as "policy show --json" prints it', [
      'offbox trust policy set policy.json',
    ]),
  ).action(
    action<KeyOptions, [string]>(async (context, options, path) => {
      const { changePolicy, parsePolicy } = await import('../../trust/policy.ts')
      const wanted = parsePolicy(await readInput(path, policyBytesMax))
      // A version that the file names counts where it is higher: that is how a policy whose file was lost is replaced.
      report(context, await changePolicy(await trustContext(context, options), () => wanted.services, wanted.version))
    }),
  )

  withKeys(
    leaf(group, 'allow <service>', 'let a service run, or let it do more; what it may do already stays', [
      'offbox trust policy allow telemetry --bundle telemetry-1.1.0.offbox',
      'offbox trust policy allow probes --key 0f3a9c1be2d45678 --tier process',
      'offbox trust policy allow probes --capability state',
    ]),
  )
    .option('--bundle <file>', 'the keys that signed this bundle, and the capabilities and the tier that it asks for')
    .option('--key <keyid>', 'a bundle key, at least 16 of its digits; repeatable', collect)
    .option('--capability <name>', `of ${CAPABILITIES.join(', ')}; repeatable`, collect)
    .option('--tier <tier>', `of ${TIERS.join(', ')}; repeatable`, collect)
    .action(
      action<AllowOptions, [string]>(async (context, options, service) => {
        const { allowing, changePolicy } = await import('../../trust/policy.ts')
        const wishes = await wishesOf(context.home, service, options)
        const change = await changePolicy(await trustContext(context, options), (before) => {
          const after = allowing(before, wishes)
          const rule = after[service] as ServicePolicy
          const lacks = rule.keys.length === 0 ? '--key' : rule.tiers.length === 0 ? '--tier' : ''
          if (lacks) throw new OffboxError('ARGUMENT_INVALID', `${service} could not run so: give --bundle, or ${lacks}`)
          return after
        })
        report(context, change)
      }),
    )

  withKeys(leaf(group, 'deny <service>', 'take a service out of the policy: devices do not start it any more', ['offbox trust policy deny probes'])).action(
    action<KeyOptions, [string]>(async (context, options, service) => {
      const { changePolicy } = await import('../../trust/policy.ts')
      const change = await changePolicy(await trustContext(context, options), (before) => {
        if (!Object.hasOwn(before, service)) throw new OffboxError('ARGUMENT_INVALID', `the policy does not name ${JSON.stringify(service)}`)
        return Object.fromEntries(Object.entries(before).filter(([name]) => name !== service))
      })
      report(context, change)
    }),
  )
}

/** @throws ARGUMENT_INVALID a key, capability or tier that is none; BUNDLE_… */
async function wishesOf(home: Home, service: string, options: AllowOptions): Promise<PolicyWish[]> {
  const { wishOf } = await import('../../trust/policy.ts')
  const signers = await signersOf(home)
  const trusted = signers.all
  const { key = [], capability = [], tier = [], bundle } = options
  const keyIds = key.map((digits) => {
    const found = digits.length >= 16 ? [...trusted.keys()].filter((id) => id.startsWith(digits)) : []
    if (found.length === 1) return found[0] as string
    const known = [...trusted.keys()].map((id) => id.slice(0, 16)).join(', ')
    throw new OffboxError('ARGUMENT_INVALID', `--key ${digits} is none of the bundle keys of this fleet: ${known}`)
  })
  const capabilities = capability.map((name) => oneOf<Capability>(CAPABILITIES, name, '--capability'))
  const wishes: PolicyWish[] = [{ service, keyIds, capabilities, tiers: tier.map((name) => oneOf<Tier>(TIERS, name, '--tier')) }]
  if (bundle !== undefined) {
    const { readServiceBundle } = await import('../../registry/verify.ts')
    const { manifest, keyIds: by } = readServiceBundle(await readBundleFile(resolve(bundle)), signers)
    if (manifest.name !== service) throw new OffboxError('ARGUMENT_INVALID', `${bundle} is of ${manifest.name}, not of ${service}`)
    wishes.push(wishOf(manifest, by))
  }
  return wishes
}

async function signersOf(home: Home): Promise<BundleKeys> {
  const [{ readTrust }, { signersIn }] = await Promise.all([import('../../trust/trust.ts'), import('../../trust/publish.ts')])
  return signersIn((await readTrust(home.trust)).targets.signed, (await readAnchors(home)).bundleKeys)
}

function oneOf<T extends string>(known: readonly T[], text: string, option: string): T {
  const found = known.find((one) => one === text)
  if (found === undefined) throw new OffboxError('ARGUMENT_INVALID', `${option} ${JSON.stringify(text)} is none of ${known.join(', ')}`)
  return found
}

function report({ print }: Context, { policy, changed }: { policy: Policy; changed: boolean }): void {
  const said = changed
    ? `policy ${policy.version} is published; devices take it with their next order, at the latest within half a minute`
    : 'nothing was changed'
  print.result({ ...policy, changed }, () => `${said}\n\n${policyText(policy)}`)
}

function policyText({ version, services }: Policy): string {
  const rows = Object.entries(services).map(([name, { keys, capabilities, tiers }]) => [
    name,
    keys.map((id) => id.slice(0, 16)).join(', ') || 'no key',
    capabilities.join(', ') || 'none',
    tiers.join(', ') || 'none',
  ])
  return `policy ${version}\n${table(['service', 'signed by one of', 'capabilities', 'tiers'], rows, 'it names no service: devices run nothing')}`
}
