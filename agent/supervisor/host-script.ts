/** The script of every worker, with what V8 made of it the first time: to compile it anew costs a worker a third of its start. */
import type { Worker } from 'node:worker_threads'

/**
 * Runs the script in a worker, and sends back V8's compiled code, before any code of a service is evaluated. V8 refuses code of another
 * version or other flags by itself, and compiles the text then.
 */
const BOOT = `'use strict';
const { parentPort, workerData } = require('node:worker_threads')
const { Script } = require('node:vm')
const { text, compiled } = workerData.host
delete workerData.host
const script = new Script(text, { filename: 'service-host', ...(compiled ? { cachedData: compiled } : {}) })
script.runInThisContext()(require)
parentPort.postMessage(compiled && !script.cachedDataRejected ? null : script.createCachedData())
`

export interface HostData {
  readonly text: string
  readonly compiled: Uint8Array | undefined
}

export class HostScript {
  /** For `new Worker(text, { eval: true })`, with `data` in workerData.host. */
  readonly boot = BOOT
  readonly #text: string
  #compiled: Uint8Array | undefined

  constructor(text: string) {
    this.#text = `(function (require) {${text}\n})`
  }

  get data(): HostData {
    return { text: this.#text, compiled: this.#compiled }
  }

  /** Takes the compiled code from a worker's first message: what follows could be of the service's making. */
  learnFrom(worker: Worker): void {
    worker.once('message', (compiled: unknown) => {
      if (!(compiled instanceof Uint8Array)) return
      // Shared, so that no worker gets a copy.
      this.#compiled = new Uint8Array(new SharedArrayBuffer(compiled.length))
      this.#compiled.set(compiled)
    })
  }
}
