/** offbox bundle … */
import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { parseAnchors } from '../../../core/anchors.ts'
import { messageOf, OffboxError } from '../../../core/errors.ts'
import { readFloors } from '../../../core/floors.ts'
import type { TrustedKeys } from '../../../core/signing.ts'
import { serviceRole } from '../../../core/tuf/metadata.ts'
import { expiresAtMs } from '../../../core/tuf/profile.ts'
import { type BundleInfo, FleetMethods } from '../../../proto/gen/fleet.ts'
import { type Home, readAnchors } from '../../home/home.ts'
import { readSigningKey, sha256Hex } from '../../home/keys.ts'
import type { DeviceGrounds, Offered } from '../../registry/device-verdict.ts'
import { raiseFloor, readFloorsFile } from '../../registry/floors.ts'
import { type Grounds, type Inspection, inspectBundle } from '../../registry/inspect.ts'
import { buildBundle, signBundle } from '../../registry/make.ts'
import type { RpcClient } from '../../rpc/client.ts'
import { readGeneration } from '../../trust/generations.ts'
import { readPolicyOf } from '../../trust/policy.ts'
import { signersIn } from '../../trust/publish.ts'
import { latestRoot, openRepository, type Repository } from '../../trust/repository.ts'
import { action, type CommonOptions, leaf, remoteLeaf } from '../context.ts'
import { readBundleFile, replaceFile } from '../files.ts'
import { type Printer, table } from '../output.ts'

const CHUNK_BYTES = 128 * 1024

interface BuildOptions extends CommonOptions {
  readonly out?: string
  readonly version?: string
  readonly sign?: boolean
  readonly push?: boolean
}

export function bundleCommands(root: Command): void {
  const group = root.command('bundle').description('signed bundles of services, and the registry')

  remoteLeaf(group, 'build <dir>', 'make a bundle of a service folder (service.ts, manifest.json)', [
    'offbox bundle build services/telemetry --sign',
    'offbox bundle build services/telemetry --version 1.2.0 --out t.offbox',
    'offbox bundle build services/telemetry --push',
  ])
    .option('--out <file>', 'where to put it (default: NAME-VERSION.offbox)')
    .option('--version <v>', "in place of the manifest's version")
    .option('--sign', "sign it with the home's bundle key")
    .option('--push', "sign it and put it into the controller's registry as well")
    .action(
      action<BuildOptions, [string]>(async ({ home, print, controller }, options, directory) => {
        const built = await buildBundle(directory, options.version)
        const signed = options.sign === true || options.push === true
        const file = signed ? signBundle(built.file, await readSigningKey(home)) : built.file
        const { name, version } = built.manifest
        const out = resolve(options.out ?? `${name}-${version}.offbox`)
        await write(out, file)
        if (options.push) {
          await offered(home, file, print)
          await controller(async (client) => await push(client, file))
        }
        const facts = { file: out, service: name, version, sizeBytes: file.length, sha256: sha256Hex(file), signed, pushed: options.push === true }
        const state = options.push ? 'signed and in the registry' : signed ? 'signed' : 'not signed (offbox bundle sign)'
        print.result(facts, `${out}: ${name} ${version}, ${file.length} bytes, ${state}`)
      }),
    )

  leaf(group, 'sign <file>', "add the home's signature to a bundle, in place", ['offbox bundle sign telemetry-1.1.0.offbox']).action(
    action<CommonOptions, [string]>(async ({ home, print }, _options, path) => {
      const key = await readSigningKey(home)
      await replaceFile(path, signBundle(await readBundleFile(path), key))
      print.result({ file: resolve(path), keyId: key.keyId }, `${path} signed by ${key.keyId.slice(0, 16)}`)
    }),
  )

  remoteLeaf(group, 'inspect <file>', 'show what a bundle says of itself, what is in it and where from, and whether a device would take it', [
    'offbox bundle inspect telemetry-1.1.0.offbox',
    'offbox bundle inspect telemetry-1.1.0.offbox --device sw1',
    'offbox bundle inspect x.offbox --json',
    'offbox bundle inspect x.offbox --anchors anchors.json',
  ])
    .option('--anchors <file>', "judge by these anchors (default: the home's, with its floors, its trust repository and the policy in force)")
    .option('--device <id>', 'whether this device would take it now, with what the controller would bring along; asks the device')
    .action(
      action<CommonOptions & { anchors?: string; device?: string }, [string]>(async ({ home, print, controller }, { anchors, device }, path) => {
        if (anchors !== undefined && device !== undefined) throw new OffboxError('ARGUMENT_INVALID', 'give --anchors or --device, not both')
        const there = device === undefined ? undefined : await controller(async (client) => await askDevice(client, device))
        const inspection = await inspect(home, await readBundleFile(path), anchors, there)
        print.result(inspection, () => inspectionText(inspection))
      }),
    )

  remoteLeaf(group, 'push <file>', "put a signed bundle into the controller's registry", ['offbox bundle push telemetry-1.1.0.offbox']).action(
    action<CommonOptions, [string]>(async ({ home, print, controller }, _options, path) => {
      const file = await readBundleFile(path)
      await offered(home, file, print)
      const info = await controller(async (client) => await push(client, file))
      print.result(info, `${info.service} ${info.version} is in the registry, sha256 ${info.sha256.slice(0, 16)}`)
    }),
  )

  remoteLeaf(group, 'list', 'what the registry holds', ['offbox bundle list']).action(
    action<CommonOptions, []>(async ({ print, controller }) => {
      const { bundles } = await controller(async (client) => await client.unary(FleetMethods.ListBundles, {}))
      const row = (one: BundleInfo) => [one.service, one.version, one.sizeBytes, one.sha256.slice(0, 16), one.keyIds.map((id) => id.slice(0, 16)).join(' ')]
      print.result({ bundles }, () => table(['service', 'version', 'bytes', 'sha256', 'signed by'], bundles.map(row), 'the registry is empty'))
    }),
  )

  leaf(group, 'floor <service> <version>', 'sign the lowest version that devices may accept; it never falls', ['offbox bundle floor telemetry 1.1.0']).action(
    action<CommonOptions, [string, string]>(async ({ home, print }, _options, service, version) => {
      const trusted = (await readAnchors(home)).bundleKeys
      const { version: number, floors } = await raiseFloor({ path: home.floors, key: await readSigningKey(home), trusted }, service, version)
      print.result(
        { version: number, floors },
        `floors, statement ${number}: ${Object.entries(floors)
          .map(([name, floor]) => `${name} ${floor}`)
          .join(', ')}\nDevices take it with their next order or enrolment.`,
      )
    }),
  )
}

/** A lab's bundles are published by whoever pushes them; elsewhere that is for the owners of the service's key. */
async function offered(home: Home, file: Uint8Array, print: Printer): Promise<void> {
  const { isLab, offerInLab } = await import('../../trust/lab.ts')
  if (!isLab(home)) return
  const news = await offerInLab(home, [file], Date.now())
  print.note(`This is a lab: the bundle is published in its trust repository${news.length > 0 ? `, and the policy lets ${news.join(', ')} run` : ''}.`)
}

async function push(client: RpcClient, file: Uint8Array): Promise<BundleInfo> {
  const chunks = Array.from({ length: Math.ceil(file.length / CHUNK_BYTES) }, (_, index) => ({
    chunk: file.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES),
  }))
  return await client.clientStream(FleetMethods.PutBundle, chunks, { deadlineMs: 120_000 })
}

/** @throws DEVICE_NOT_FOUND, DEVICE_UNREACHABLE, CONTROLLER_UNREACHABLE */
async function askDevice(client: RpcClient, deviceId: string): Promise<DeviceGrounds> {
  const { services } = await client.unary(FleetMethods.ListDeviceServices, { deviceId })
  const { enforced, needsWitness, policyVersion, heights } = await client.unary(FleetMethods.DeviceTrust, { deviceId })
  const { info } = await client.unary(FleetMethods.GetDevice, { deviceId })
  if (!info) throw new OffboxError('DEVICE_UNREACHABLE', `${deviceId} did not answer`)
  return { deviceId, enforced, needsWitness, policyVersion, heights, floors: info.floors, services }
}

/** The verdict is that of a device with this home's anchors (or those of a file), its floors and its trust repository. */
async function inspect(home: Home, file: Uint8Array, anchorsFile: string | undefined, device: DeviceGrounds | undefined): Promise<Inspection> {
  const anchors = anchorsFile === undefined ? await readAnchors(home) : parseAnchors(new TextDecoder().decode(await readBundleFile(anchorsFile)))
  const trusted = anchors.bundleKeys
  // Floors and repository belong to the home's own fleet.
  if (anchorsFile !== undefined) return inspectBundle(file, { trusted })
  const [floors, metadata] = await Promise.all([readFloorsFile(home.floors), readGeneration(home.trust)])
  const repository = metadata && openRepository(metadata)
  return inspectBundle(file, {
    trusted,
    ...(floors.length > 0 ? { floors: readFloors(floors, trusted) } : {}),
    ...(repository ? { roles: repository.roles } : {}),
    ...(repository && (device ? device.enforced : anchors.trust) ? { demanded: await demandedBy(home, repository, trusted) } : {}),
    ...(device ? { device } : {}),
    ...(device && repository ? { offered: await offeredBy(home, repository) } : {}),
  })
}

async function offeredBy(home: Home, { timestamp, snapshot, targets, roles }: Repository): Promise<Offered> {
  const versions = { timestamp, snapshot, targets, ...Object.fromEntries(roles) }
  return {
    policyVersion: (await readPolicyOf(home.trust, { targets }))?.policy.version ?? 0,
    versions: Object.fromEntries(Object.entries(versions).map(([role, { signed }]) => [role, signed.version])),
  }
}

async function demandedBy(home: Home, repository: Repository, anchors: TrustedKeys): Promise<NonNullable<Grounds['demanded']>> {
  const policy = (await readPolicyOf(home.trust, repository))?.policy ?? null
  const expired = (service: string) => expiredIn(repository, serviceRole(service), Date.now())
  return { keys: signersIn(repository.targets.signed, anchors), policy, expired }
}

function expiredIn(repository: Repository, role: string, nowMs: number): string | null {
  const { timestamp, snapshot, targets, roles } = repository
  const all = { root: latestRoot(repository), timestamp, snapshot, targets, [role]: roles.get(role) }
  const [name, late] = Object.entries(all).find(([, one]) => one && expiresAtMs(one.signed) <= nowMs) ?? []
  return late ? `${name} of the trust repository expired at ${late.signed.expires}: offbox trust refresh` : null
}

function inspectionText({ verdict, build, sbom: _sbom, provenance: _provenance, ...facts }: Inspection): string {
  const answer = verdict.accepted ? `${facts.device ?? 'a device of this fleet'} accepts it` : `refused: ${verdict.code}: ${verdict.reason}`
  const origin = build ?? { documents: verdict.accepted ? 'none' : 'not read' }
  return Object.entries({ verdict: answer, ...facts, ...origin })
    .map(([name, value]) => `${name.padEnd(14)} ${value === null ? 'nobody' : typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join('\n')
}

async function write(path: string, data: Uint8Array): Promise<void> {
  try {
    await writeFile(path, data)
  } catch (error) {
    throw new OffboxError('ARGUMENT_INVALID', `${path} cannot be written: ${messageOf(error)}`, { cause: error })
  }
}
