/**
 * Serves the network image over HTTP: three names, GET and HEAD, whole or one range. What it serves is public, and a device
 * trusts none of it beyond booting it (docs/threat-model.md); so there is no TLS here, and nothing else to ask for.
 */
import { open, type FileHandle } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import { OffboxError } from '../../core/errors.ts'
import { bootScript, type BootScriptOptions } from './boot-script.ts'
import { parseRange } from './range.ts'

const SCRIPT_PATH = '/boot.ipxe'
const FILES = ['vmlinuz', 'initrd.img'] as const
const CONNECTIONS_MAX = 512
const REQUEST_TIMEOUT_MS = 30_000

export interface BootServerOptions extends BootScriptOptions {
  /** Holds vmlinuz and initrd.img; read anew for each request, so a rebuilt image is served at once. */
  readonly imageDir: string
  readonly host: string
  /** 0: any free one. */
  readonly port: number
  /** Called once a request is answered, or has been cut off. */
  readonly log?: (message: string, fields: Readonly<Record<string, unknown>>) => void
}

export interface BootServer {
  /** Of the iPXE script, for DHCP. */
  readonly url: string
  readonly port: number
  /** Stops listening and cuts what is under way. */
  close(): Promise<void>
}

/**
 * @throws PORT_TAKEN the port is in use or not permitted
 * @throws SETUP_MISSING the image is not there
 */
export async function serveBoot(options: BootServerOptions): Promise<BootServer> {
  const script = Buffer.from(bootScript(options))
  for (const name of FILES) await (await openPart(options.imageDir, name)).close()
  const app = fastify({ logger: false, forceCloseConnections: true, requestTimeout: REQUEST_TIMEOUT_MS, exposeHeadRoutes: false, bodyLimit: 1 })
  app.server.maxConnections = CONNECTIONS_MAX
  app.addHook('onRequest', async (request, reply) => {
    const startedAtMs = performance.now()
    // Not `onResponse`: that one stays silent when the client goes away in the middle.
    reply.raw.once('close', () => {
      const fields = {
        peer: request.ip,
        method: request.method,
        path: request.url.slice(0, 200),
        status: reply.statusCode,
        ms: Math.round(performance.now() - startedAtMs),
      }
      options.log?.('boot file served', { ...fields, cutOff: !reply.raw.writableFinished })
    })
  })
  app.setNotFoundHandler(async (_request, reply) => reply.code(404).type('text/plain').send('not found\n'))
  app.setErrorHandler(async (error, _request, reply) => {
    options.log?.('boot file failed', { error: (error as Error).message })
    return reply.code(503).type('text/plain').send('not available\n')
  })
  app.route({
    method: ['GET', 'HEAD'],
    url: SCRIPT_PATH,
    handler: async (_request, reply) => reply.type('text/plain').header('cache-control', 'no-store').send(script),
  })
  for (const name of FILES) {
    app.route({ method: ['GET', 'HEAD'], url: `/${name}`, handler: (request, reply) => sendFile(options.imageDir, name, request, reply) })
  }
  try {
    await app.listen({ host: options.host, port: options.port })
  } catch (error) {
    await app.close()
    throw listenError(error, options)
  }
  const { port } = app.server.address() as AddressInfo
  const host = options.host.includes(':') ? `[${options.host}]` : options.host
  return { url: `http://${host}:${port}${SCRIPT_PATH}`, port, close: () => app.close() }
}

async function sendFile(imageDir: string, name: string, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const file = await openPart(imageDir, name)
  let streaming = false
  try {
    const { size } = await file.stat()
    const range = parseRange(request.headers.range, size)
    reply.type('application/octet-stream').header('accept-ranges', 'bytes').header('cache-control', 'no-store')
    if (range === 'unsatisfiable') return await reply.code(416).header('content-range', `bytes */${size}`).send()
    const { first, last } = range ?? { first: 0, last: size - 1 }
    if (range) reply.code(206).header('content-range', `bytes ${first}-${last}/${size}`)
    reply.header('content-length', last - first + 1)
    if (request.method === 'HEAD') return await reply.send()
    streaming = true // the stream closes the file, also when the client goes away
    return reply.send(file.createReadStream({ start: first, end: last, highWaterMark: 1024 * 1024 }))
  } finally {
    if (!streaming) await file.close()
  }
}

async function openPart(imageDir: string, name: string): Promise<FileHandle> {
  return open(join(imageDir, name)).catch((error) => {
    throw new OffboxError('SETUP_MISSING', `${join(imageDir, name)} cannot be read (${error.code}); run: offbox image build`, { cause: error })
  })
}

function listenError(error: unknown, { host, port }: BootServerOptions): unknown {
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== 'EADDRINUSE' && code !== 'EACCES' && code !== 'EADDRNOTAVAIL') return error
  return new OffboxError('PORT_TAKEN', `the boot server cannot listen on ${host}:${port}: ${message}`, { cause: error })
}
