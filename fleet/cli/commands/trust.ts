/** offbox trust … */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { type Home, readAnchors } from '../../home/home.ts'
import type { Published } from '../../trust/publish.ts'
import type { Repository } from '../../trust/repository.ts'
import type { RoleStatus, TrustStatus } from '../../trust/status.ts'
import { action, type Context, leaf } from '../context.ts'
import { readBundleFile, replaceFile } from '../files.ts'
import { collect, integer, type KeyOptions, publicKeyFrom, trustContext, withKeys } from '../keys.ts'
import { table } from '../output.ts'
import { anchorsCommand, deviceTrustCommand } from './trust-device.ts'
import { policyCommands } from './trust-policy.ts'

export function trustCommands(root: Command): void {
  const group = root.command('trust').description('the fleet’s TUF repository: who may sign what, until when')
  initCommand(group)
  rotateCommand(group)
  delegateCommand(group)
  revokeCommand(group)
  publishCommand(group)
  refreshCommand(group)
  statusCommand(group)
  policyCommands(group)
  anchorsCommand(group)
  deviceTrustCommand(group)
}

function initCommand(group: Command): void {
  withKeys(
    leaf(group, 'init', 'make root, targets, snapshot and timestamp keys, and the first repository. Never replaces one.', [
      'offbox trust init',
      'offbox trust init --key-dir /media/alice --key-dir /media/bob --key-dir /media/carol',
      'offbox trust init --passphrase-file ~/.offbox-passphrase',
    ]),
    'where root keys go, one after the other; repeatable (default: the home)',
  )
    .option('--root-keys <n>', 'root keys to make', integer, 3)
    .option('--threshold <n>', 'root keys that must sign a new root', integer, 2)
    .action(
      action<KeyOptions & { rootKeys: number; threshold: number }, []>(async (context, options) => {
        const [{ initTrust }, { writeTrustAnchors }] = await Promise.all([import('../../trust/trust.ts'), import('../../trust/anchors.ts')])
        const { rootKeys, threshold, keyDir = [] } = options
        const { home } = context
        const repository = await initTrust(await trustContext(context, options), { rootKeys, threshold, rootDirectories: keyDir.map((one) => resolve(one)) })
        const words = [`A repository is in ${home.trust}/repository. Keep the root keys apart, and offline.`]
        if ((await readAnchors(home)).trust === undefined) {
          await writeTrustAnchors(home, { nowMs: Date.now() })
          words.push(`${home.anchors} carries its root from now on: devices with these anchors run what the repository and its policy let them, nothing else.`)
        } else {
          words.push(`${home.anchors} still begins with the root of another repository; for new images: offbox trust anchors --renew`)
        }
        await show(context, options, repository, words.join('\n'))
      }),
    )
}

function rotateCommand(group: Command): void {
  withKeys(
    leaf(group, 'rotate <role>', 'give a role new keys: root, timestamp, snapshot, targets or service-NAME', [
      'offbox trust rotate timestamp',
      'offbox trust rotate root --key-dir /media/alice --key-dir /media/bob --replace 0f3a9c1be2d45678',
      'offbox trust rotate service-telemetry',
    ]),
  )
    .option('--replace <keyid>', 'only this key, at least 16 of its digits (default: all keys of the role)')
    .option('--new-key-dir <dir>', 'where new keys go; repeatable (default: the home)', collect)
    .action(
      action<KeyOptions & { replace?: string; newKeyDir?: readonly string[] }, [string]>(async (context, options, role) => {
        const { rotate } = await import('../../trust/trust.ts')
        const where = options.newKeyDir ? { directories: options.newKeyDir.map((one) => resolve(one)) } : {}
        const what = options.replace === undefined ? {} : { replace: options.replace }
        await show(context, options, await rotate(await trustContext(context, options), role, { ...what, ...where }), `${role} has new keys`)
      }),
    )
}

function delegateCommand(group: Command): void {
  withKeys(
    leaf(group, 'delegate <service>', "let a service's keys sign for its bundles, and for nothing else", [
      'offbox trust delegate telemetry',
      'offbox trust delegate routing --public-key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29',
    ]),
  )
    .option('--public-key <hex>', "the team's own key, 64 hex digits; repeatable (default: a new key is made here)", collect)
    .option('--threshold <n>', 'of these keys must sign', integer, 1)
    .option('--new-key-dir <dir>', 'where the new key goes (default: the home)')
    .action(
      action<KeyOptions & { publicKey?: readonly string[]; threshold: number; newKeyDir?: string }, [string]>(async (context, options, service) => {
        const { delegate } = await import('../../trust/trust.ts')
        const { publicKey = [], threshold, newKeyDir } = options
        const publicKeys = publicKey.map((hex) => publicKeyFrom(hex, '--public-key'))
        const repository = await delegate(await trustContext(context, options), service, {
          publicKeys,
          threshold,
          ...(newKeyDir === undefined ? {} : { directory: resolve(newKeyDir) }),
        })
        await show(context, options, repository, `service-${service} may sign services/${service}/*.offbox`)
      }),
    )
}

function revokeCommand(group: Command): void {
  withKeys(
    leaf(group, 'revoke <what>', 'take trust from a key (it is replaced in every role that lists it), a service, or a published bundle', [
      'offbox trust revoke 0f3a9c1be2d45678 --key-dir /media/alice --key-dir /media/bob',
      'offbox trust revoke service-telemetry',
      'offbox trust revoke services/telemetry/1.0.0.offbox',
    ]),
  )
    .option('--new-key-dir <dir>', 'where new keys go; repeatable (default: the home)', collect)
    .action(
      action<KeyOptions & { newKeyDir?: readonly string[] }, [string]>(async (context, options, what) => {
        const { revoke } = await import('../../trust/trust.ts')
        const where = options.newKeyDir ? { directories: options.newKeyDir.map((one) => resolve(one)) } : {}
        await show(context, options, await revoke(await trustContext(context, options), what, where), `${what} is revoked`)
      }),
    )
}

function publishCommand(group: Command): void {
  withKeys(leaf(group, 'publish <file...>', "sign bundles as targets, with their services' keys", ['offbox trust publish telemetry-1.1.0.offbox']))
    .option('--sign', "add the service key's signature to each file first, in place")
    .action(
      action<KeyOptions & { sign?: boolean }, [string[]]>(async (context, options, paths) => {
        const [{ publish }, { bundleKeys }] = await Promise.all([import('../../trust/publish.ts'), readAnchors(context.home)])
        const files = await Promise.all(paths.map(readBundleFile))
        const sign = options.sign === true
        const published = await publish(await trustContext(context, options), files, { anchors: bundleKeys, sign })
        if (sign) for (const [index, one] of published.entries()) await replaceFile(paths[index] as string, one.file)
        const facts = published.map(({ path, target }) => ({ path, length: target.length, sha256: target.hashes.sha256, ...target.custom }))
        context.print.result({ published: facts }, () => facts.map(({ path, sha256 }) => `${path} sha256 ${sha256.slice(0, 16)}`).join('\n'))
        for (const text of await refusedByPolicy(context.home, published)) context.print.note(text)
      }),
    )
}

/** Published is not yet let run: who publishes and who allows may be different people. */
async function refusedByPolicy(home: Home, published: readonly Published[]): Promise<string[]> {
  const [{ readPolicyOf }, { readTrust }, { policyVerdict }] = await Promise.all([
    import('../../trust/policy.ts'),
    import('../../trust/trust.ts'),
    import('../../../core/policy.ts'),
  ])
  const policy = (await readPolicyOf(home.trust, await readTrust(home.trust)))?.policy ?? null
  return published.flatMap(({ path, manifest: { name: service, capabilities, tier = 'worker' }, keyIds }) => {
    const broken = policyVerdict(policy, { service, keyIds, capabilities, tier })
    return broken === null ? [] : [`Devices refuse ${path}: ${broken}. To let it run: offbox trust policy allow ${service} --bundle FILE`]
  })
}

function refreshCommand(group: Command): void {
  withKeys(leaf(group, 'refresh', 'sign the timestamp anew, the snapshot when half its time is over, and roles named', ['offbox trust refresh']))
    .option('--role <role>', 'sign this one anew as well; repeatable', collect)
    .action(
      action<KeyOptions & { role?: readonly string[] }, []>(async (context, options) => {
        const { refresh } = await import('../../trust/trust.ts')
        await show(context, options, await refresh(await trustContext(context, options), options.role ?? []), 'signed anew')
      }),
    )
}

function statusCommand(group: Command): void {
  leaf(group, 'status', 'roles, versions, expiry, thresholds, and who may sign what; needs no passphrase', [
    'offbox trust status',
    'offbox trust status --json',
  ])
    .option('--key-dir <dir>', 'look for private keys here as well; repeatable', collect)
    .action(
      action<KeyOptions, []>(async (context, options) => {
        const { readTrust } = await import('../../trust/trust.ts')
        await show(context, options, await readTrust(context.home.trust))
      }),
    )
}

async function show({ home, print }: Context, { keyDir = [] }: KeyOptions, repository: Repository, done?: string): Promise<void> {
  const [{ statusOf }, { readKeyFiles }, { keysOf }] = await Promise.all([
    import('../../trust/status.ts'),
    import('../../trust/key-file.ts'),
    import('../../trust/trust.ts'),
  ])
  const files = (await Promise.all([keysOf(home.trust), ...keyDir.map((one) => resolve(one))].map(readKeyFiles))).flat()
  const status = statusOf(repository, files, Date.now())
  print.result(status, () => [...(done === undefined ? [] : [done, '']), statusText(status)].join('\n'))
}

function statusText({ roles, rootVersions, unusedKeyFiles, warnings }: TrustStatus): string {
  const keys = (role: RoleStatus) => role.keys.map(({ keyid, files }) => `${keyid.slice(0, 16)}${files.length > 0 ? '' : ' (elsewhere)'}`).join(', ')
  const row = (role: RoleStatus) => [
    role.role,
    role.version,
    role.expires || '-',
    `${role.threshold} of ${role.keys.length}`,
    keys(role),
    role.role.startsWith('service-') ? `${role.signs.join(', ')} (${role.targets.length})` : role.signs.join(', '),
  ]
  return [
    table(['role', 'version', 'expires', 'must sign', 'keys', 'for'], roles.map(row)),
    `chain of ${rootVersions} root${rootVersions === 1 ? '' : 's'}`,
    ...unusedKeyFiles.map((path) => `no role uses the key in ${path}`),
    ...warnings.map((text) => `WARNING: ${text}`),
  ].join('\n')
}
