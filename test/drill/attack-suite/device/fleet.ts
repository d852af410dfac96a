/** What all devices of the drill share: a build of the agent, a certificate authority, a bundle key, and a place to enrol at. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import type { Plugin } from 'esbuild'
import { buildAll } from '../../../../build.mjs'
import { type CertificateAuthority, makeCa, makeIdentity, type Role, signCsr } from '../../../../core/x509.ts'
import { EnrolMethods, type EnrolRequest, type EnrolResponseInit } from '../../../../proto/gen/enrol.ts'
import { makeKey, type SigningKey } from '../../../fixtures/bundles.ts'

export const FLEET = 'lab'
const DAY_MS = 86_400_000
/** Certificates outlast a clock that is wrong by a year: which certificate is in force is not what the drill is about. */
const VALID = { nowMs: Date.now() - 500 * DAY_MS, validMs: 1_000 * DAY_MS }

/** Whatever a controller would add to its answer. */
export type Enroller = (request: EnrolRequest) => Promise<Pick<EnrolResponseInit, 'metadata' | 'policy' | 'witness' | 'floors'>>

export interface Identity {
  readonly keyPem: string
  readonly certificatePem: string
}

export interface DrillFleet {
  readonly directory: string
  readonly ca: CertificateAuthority
  /** Of the anchors: its signature is the first lock of every bundle. */
  readonly key: SigningKey
  readonly controllerPort: number
  /** By device id. */
  readonly enrollers: Map<string, Enroller>
  /** @param ca of somebody else, for a stranger */
  identity(role: Role, id: string, ca?: CertificateAuthority): Promise<Identity>
  close(): Promise<void>
}

export async function makeFleet(plugins: Plugin[] = []): Promise<DrillFleet> {
  const directory = await mkdtemp(join(tmpdir(), 'obx-attack-suite-'))
  await buildAll({ out: join(directory, 'dist'), plugins })
  const ca = await makeFleetCa()
  const identity = async (role: Role, id: string, by = ca) => await makeIdentity(by, { fleet: FLEET, role, id, ...VALID })
  const enrollers = new Map<string, Enroller>()
  const { path, request: from, response: to } = EnrolMethods.Enrol
  const enrol = async (bytes: Buffer): Promise<Buffer> => {
    const request = from.decode(bytes)
    const deviceId = request.serial.slice('SN-'.length)
    const enroller = enrollers.get(deviceId)
    if (!enroller) throw new Error(`nobody registered ${request.serial}`)
    const certificateChainPem = await signCsr(ca, request.csrPem, { fleet: FLEET, role: 'device', id: deviceId, ...VALID })
    return Buffer.from(to.encode({ deviceId, fleet: FLEET, certificateChainPem, timeMs: Date.now(), ...(await enroller(request)) }))
  }
  const server = new grpc.Server()
  const same = (bytes: Buffer) => bytes
  const handler = (call: grpc.ServerUnaryCall<Buffer, Buffer>, answer: grpc.sendUnaryData<Buffer>) =>
    enrol(call.request).then(
      (bytes) => answer(null, bytes),
      (error) => answer(error),
    )
  server.register(path, handler as never, same, same, 'unary')
  const own = await identity('controller', 'one')
  const credentials = grpc.ServerCredentials.createSsl(null, [{ private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.certificatePem) }], false)
  const controllerPort = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, port) => (error ? reject(error) : resolve(port)))
  })
  const close = async () => {
    server.forceShutdown()
    await rm(directory, { recursive: true, force: true })
  }
  return { directory, ca, key: makeKey(), controllerPort, enrollers, identity, close }
}

export async function makeFleetCa(): Promise<CertificateAuthority> {
  return await makeCa(FLEET, VALID)
}
