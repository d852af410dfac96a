/** A real agent process on loopback, a controller that only enrols, and clients with certificates of the same fleet. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import * as grpc from '@grpc/grpc-js'
import type { Plugin } from 'esbuild'
import { buildAll } from '../../build.mjs'
import { formatAnchors } from '../../core/anchors.ts'
import { type CertificateAuthority, makeCa, makeIdentity, type Role, signCsr } from '../../core/x509.ts'
import { RpcClient } from '../../fleet/rpc/client.ts'
import { EnrolMethods, type EnrolRequest } from '../../proto/gen/enrol.ts'
import { LifecycleMethods, type BundleUploadInit, type Change, type InstallOrderInit } from '../../proto/gen/lifecycle.ts'
import { makeKey, type SigningKey, trust } from '../fixtures/bundles.ts'
import { makeTrustLab, type TrustLab } from './trust-lab.ts'

export const FLEET = 'lab'
const dayMs = 86_400_000
const waitMs = 60_000

export interface Lab {
  readonly directory: string
  readonly ca: CertificateAuthority
  readonly key: SigningKey
  readonly controllerPort: number
  /** Requests so far; `floors` is sent with each answer. */
  readonly enrolments: EnrolRequest[]
  floors: Uint8Array
  /** Set to refuse enrolment. */
  refusing: boolean
  /** Null: agents of this lab have no trust anchors. */
  readonly trust: TrustLab | null
  /** Set to enrol without metadata. */
  withholding: boolean
  identity(role: Role, id: string): Promise<{ keyPem: string; certificatePem: string }>
  /** Removes everything, also after a failure. */
  close(): Promise<void>
}

/**
 * @param plugins of the build of the agent, for one that is to crash at a given point
 * @param options.trust agents get trust anchors, and obey the lab's repository, policy and witness
 */
export async function makeLab(plugins: Plugin[] = [], options: { trust?: boolean } = {}): Promise<Lab> {
  const directory = await mkdtemp(join(tmpdir(), 'obx-agent-'))
  await buildAll({ out: join(directory, 'dist'), plugins })
  const nowMs = Date.now()
  const ca = await makeCa(FLEET, { nowMs, validMs: 10 * dayMs })
  const key = makeKey()
  const trusting = options.trust ? await makeTrustLab(directory, key, FLEET) : null
  const anchors = { fleet: FLEET, caPem: ca.certificatePem, bundleKeys: trust(key), trust: trusting?.anchors }
  await writeFile(join(directory, 'anchors.json'), formatAnchors(anchors))
  const identity = async (role: Role, id: string) => await makeIdentity(ca, { fleet: FLEET, role, id, nowMs: Date.now(), validMs: dayMs })
  const own = await identity('controller', 'one')
  const server = new grpc.Server()
  const enrolments: EnrolRequest[] = []
  const { path, request: from, response: to } = EnrolMethods.Enrol
  const handler = (call: grpc.ServerUnaryCall<Buffer, Buffer>, answer: grpc.sendUnaryData<Buffer>) => {
    const request = from.decode(call.request)
    enrolments.push(request)
    if (lab.refusing) {
      const metadata = new grpc.Metadata()
      metadata.set('offbox-error', 'DEVICE_NOT_REGISTERED')
      answer({ code: grpc.status.PERMISSION_DENIED, details: 'DEVICE_NOT_REGISTERED: nobody knows it', metadata })
      return
    }
    const names = { fleet: FLEET, role: 'device', id: 'sw1', nowMs: Date.now(), validMs: dayMs } as const
    const sign = async () => {
      const chain = await signCsr(ca, request.csrPem, names)
      const carried = lab.withholding ? undefined : await trusting?.carry(undefined, request.rootVersion)
      // A witness signs nothing for metadata that it refuses, e.g. expired one: then it is asked without.
      const witness = await trusting?.attest(request.challenge, carried).catch(async () => await trusting.attest(request.challenge))
      const more = { ...carried, witness }
      return Buffer.from(to.encode({ deviceId: 'sw1', fleet: FLEET, certificateChainPem: chain, floors: lab.floors, timeMs: Date.now(), ...more }))
    }
    sign().then(
      (bytes) => answer(null, bytes),
      (error) => answer(error),
    )
  }
  const same = (bytes: Buffer) => bytes
  server.register(path, handler as never, same, same, 'unary')
  const credentials = grpc.ServerCredentials.createSsl(null, [{ private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.certificatePem) }], false)
  const controllerPort = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, port) => (error ? reject(error) : resolve(port)))
  })
  const lab: Lab = {
    directory,
    ca,
    key,
    controllerPort,
    enrolments,
    floors: new Uint8Array(),
    refusing: false,
    withholding: false,
    trust: trusting,
    identity,
    close: async () => {
      server.forceShutdown()
      trusting?.remove()
      await rm(directory, { recursive: true, force: true })
    },
  }
  return lab
}

export interface AgentProcess {
  readonly port: number
  readonly child: ChildProcess
  readonly lines: Record<string, unknown>[]
  stderr: string
  /** The first line, already there or still to come, that matches. Fails when the process ends or after a minute. */
  line(matches: (line: Record<string, unknown>) => boolean): Promise<Record<string, unknown>>
  exited: Promise<number | null>
  kill(signal?: NodeJS.Signals): Promise<void>
}

export interface NodeStart {
  readonly flags: readonly string[]
  readonly environment: Readonly<Record<string, string>>
}

/** What the product starts Node with. */
export async function nodeStart(lab: Pick<Lab, 'directory'>): Promise<NodeStart> {
  return JSON.parse(await readFile(join(lab.directory, 'dist/node.json'), 'utf8'))
}

/** Starts the lab's own build of the agent in `lab.directory`/`name`; a second start with the same name finds the same state. */
export async function startAgent(
  lab: Pick<Lab, 'directory' | 'controllerPort'>,
  name: string,
  port: number,
  over: Record<string, unknown> = {},
  how?: NodeStart,
): Promise<AgentProcess> {
  const home = join(lab.directory, name)
  await mkdir(home, { recursive: true })
  const file = join(home, 'agent.json')
  const config = {
    boot: 'local',
    serial: `SN-${name}`,
    mac: '02:00:00:00:00:01',
    address: '127.0.0.1',
    port,
    stateDir: join(home, 'state'),
    runDir: join(home, 'run'),
    controller: { address: '127.0.0.1', port: lab.controllerPort },
    anchorsFile: join(lab.directory, 'anchors.json'),
    birdCommand: '/nonexistent/bird',
    ...over,
  }
  await writeFile(file, JSON.stringify(config))
  const { flags, environment } = how ?? (await nodeStart(lab))
  const child = spawn(process.execPath, [...flags, join(lab.directory, 'dist/main.mjs'), '--config', file], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const lines: Record<string, unknown>[] = []
  const waiting = new Set<() => void>()
  const agent: AgentProcess = {
    port,
    child,
    lines,
    stderr: '',
    exited: once(child, 'exit').then(([code]) => code as number | null),
    line: async (matches) => {
      const deadline = Date.now() + waitMs
      for (;;) {
        const found = lines.find(matches)
        if (found) return found
        if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
          throw new Error(`no such line; exit ${child.exitCode ?? child.signalCode}; ${agent.stderr}\n${lines.map((line) => JSON.stringify(line)).join('\n')}`)
        }
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, 1_000)
          waiting.add(() => {
            clearTimeout(timer)
            resolve()
          })
        })
      }
    },
    kill: async (signal = 'SIGKILL') => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal)
      await agent.exited
    },
  }
  const wake = () => {
    for (const resolve of waiting) resolve()
    waiting.clear()
  }
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(JSON.parse(line) as Record<string, unknown>)
    wake()
  })
  child.stderr.on('data', (chunk: Buffer) => {
    agent.stderr += chunk.toString()
  })
  child.once('exit', wake)
  return agent
}

export const isServing = (line: Record<string, unknown>) => line['msg'] === 'serving'

/** Below the range from which the kernel takes ports for outgoing connections: one of those could take it before it is listened on. */
const OWN_PORTS = { from: 15_000, to: 32_000 }

export async function freePort(): Promise<number> {
  for (;;) {
    const port = OWN_PORTS.from + Math.floor(Math.random() * (OWN_PORTS.to - OWN_PORTS.from))
    const server = createServer().listen(port, '127.0.0.1')
    const free = await once(server, 'listening').then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'EADDRINUSE') return false
        throw error
      },
    )
    if (!free) continue
    await new Promise((resolve) => server.close(resolve))
    return port
  }
}

export async function connect(lab: Lab, port: number, identity?: { keyPem: string; certificatePem: string }): Promise<RpcClient> {
  const own = identity ?? (await lab.identity('operator', 'test'))
  const client = new RpcClient({ target: `127.0.0.1:${port}`, serverName: `sw1.${FLEET}.offbox`, caPem: lab.ca.certificatePem, identity: own })
  labOf.set(client, lab)
  return client
}

/** Whose client it is: what an order has to carry depends on it. */
const labOf = new WeakMap<RpcClient, Lab>()

/** Order and chunks of an upload. */
export function* upload(order: InstallOrderInit, file: Uint8Array, chunkBytes = 64 * 1024): Generator<BundleUploadInit> {
  yield { order }
  for (let at = 0; at < file.length; at += chunkBytes) yield { chunk: file.subarray(at, at + chunkBytes) }
}

/** In a lab with trust the bundle is published and allowed first, unless the order carries metadata already. */
export async function send(client: RpcClient, kind: 'Install' | 'Upgrade', ordered: InstallOrderInit, file: Uint8Array): Promise<Change> {
  const carried = ordered.metadata ? {} : await labOf.get(client)?.trust?.supply(file)
  const order = { ...carried, ...ordered }
  return await client.clientStream(LifecycleMethods[kind], upload(order, file), { deadlineMs: waitMs })
}

/** A raw unary call of a method that has no proto of its own. */
export async function ask(lab: Lab, client: RpcClient, path: string, text = ''): Promise<string> {
  void lab
  const raw = { encode: (value: string) => new Uint8Array(Buffer.from(value)), decode: (bytes: Uint8Array) => Buffer.from(bytes).toString() }
  return (await client.unary({ path, kind: 'unary', request: raw, response: raw } as never, text as never)) as unknown as string
}
