/** offbox trust … */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { OffboxError } from '../../../core/errors.ts'
import { readAnchors } from '../../home/home.ts'
import type { Repository } from '../../trust/repository.ts'
import type { RoleStatus, TrustStatus } from '../../trust/status.ts'
import type { TrustContext } from '../../trust/trust.ts'
import { action, type CommonOptions, type Context, leaf } from '../context.ts'
import { readBundleFile, replaceFile } from '../files.ts'
import { table } from '../output.ts'

interface KeyOptions extends CommonOptions {
  readonly passphraseFile?: string
  readonly passphraseFd?: number
  readonly keyDir?: readonly string[]
}

export function trustCommands(root: Command): void {
  const group = root.command('trust').description('the fleet’s TUF repository: who may sign what, until when')
  initCommand(group)
  rotateCommand(group)
  delegateCommand(group)
  revokeCommand(group)
  publishCommand(group)
  refreshCommand(group)
  statusCommand(group)
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
        const { initTrust } = await import('../../trust/trust.ts')
        const { rootKeys, threshold, keyDir = [] } = options
        const repository = await initTrust(await trustContext(context, options), { rootKeys, threshold, rootDirectories: keyDir.map((one) => resolve(one)) })
        await show(context, options, repository, `A repository is in ${context.home.trust}/repository. Keep the root keys apart, and offline.`)
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
        const publicKeys = publicKey.map(publicKeyFrom)
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
      }),
    )
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

function withKeys(command: Command, keyDir = 'private keys are here as well as in the home; repeatable'): Command {
  return command
    .option('--key-dir <dir>', keyDir, collect)
    .option('--passphrase-file <file>', 'a file of mode 0600: one passphrase a line, the first for new keys (default: ask at the terminal)')
    .option('--passphrase-fd <n>', 'the same from an open file descriptor', integer)
}

async function trustContext({ home, print }: Context, options: KeyOptions): Promise<TrustContext> {
  const [{ KeyRing }, { keysOf }, source] = await Promise.all([
    import('../../trust/key-ring.ts'),
    import('../../trust/trust.ts'),
    import('../../trust/passphrase.ts'),
  ])
  const { labPassphraseFile } = await import('../../trust/lab.ts')
  // Above all: the home is ours, and closed to others.
  await readAnchors(home)
  const lab = labPassphraseFile(home.trust)
  const { passphraseFile, passphraseFd, keyDir = [] } = options
  if (passphraseFile !== undefined && passphraseFd !== undefined)
    throw new OffboxError('ARGUMENT_INVALID', 'give --passphrase-file or --passphrase-fd, not both')
  const inLab = passphraseFile === undefined && passphraseFd === undefined && existsSync(lab)
  if (inLab) print.note(`This is a lab: its keys open with the passphrase beside them, ${lab}. They protect nothing.`)
  const file = passphraseFile ?? (inLab ? lab : undefined)
  const passphrases =
    file !== undefined ? await source.fromFile(resolve(file)) : passphraseFd !== undefined ? source.fromDescriptor(passphraseFd) : source.fromTerminal()
  return { path: home.trust, nowMs: Date.now(), keys: new KeyRing([keysOf(home.trust), ...keyDir.map((one) => resolve(one))], passphrases) }
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

function integer(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('a whole number')
  return Number(text)
}

function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text]
}

function publicKeyFrom(hex: string): Uint8Array {
  if (!/^[0-9a-f]{64}$/.test(hex)) throw new OffboxError('ARGUMENT_INVALID', '--public-key must be 64 lower-case hex digits')
  return new Uint8Array(Buffer.from(hex, 'hex'))
}
