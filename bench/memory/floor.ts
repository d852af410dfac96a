/**
 * What the memory bench compares with: the libraries that the agent is built from, loaded as it loads them, three workers that have locked
 * their realm down and do nothing, and a bare Node beside them. Bundled by the bench and run with the agent's own flags.
 */
import 'reflect-metadata'
import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import * as grpc from '@grpc/grpc-js'
import * as x509 from '@peculiar/x509'
import { pino } from 'pino'
import protobuf from 'protobufjs/minimal.js'
import semver from 'semver'
import nacl from 'tweetnacl'

// Named, so that none is left out of the bundle.
const loaded = [grpc.Server, x509.Pkcs10CertificateRequest, pino, protobuf.Writer, semver.satisfies, nacl.sign]
const [workerFile, childFile] = process.argv.slice(2)
if (workerFile === undefined || childFile === undefined) throw new Error('usage: floor WORKER_FILE CHILD_FILE')
const text = readFileSync(workerFile, 'utf8')
const options = { eval: true, execArgv: ['--permission'], env: {}, resourceLimits: { maxYoungGenerationSizeMb: 8 } }
const workers = Array.from({ length: 3 }, () => new Worker(text, options))
const ready = workers.map((worker) => new Promise((resolve) => worker.once('message', resolve)))
fork(childFile, { execArgv: [] })
await Promise.all(ready)
process.send?.(`ready with ${loaded.length} libraries`)
process.on('message', () => {
  for (const worker of workers) worker.postMessage('collect')
  // Which is what gives V8's spare pages back for all of them.
  setTimeout(() => globalThis.gc?.({ type: 'major', flavor: 'last-resort' }), 2_000)
})
setInterval(() => {}, 60_000)
