/** Two network namespaces joined by a cable, and a BIRD driver in each: routing for real, on loopback ground. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Engine } from '../../../agent/change/engine.ts'
import { Journal } from '../../../agent/change/journal.ts'
import { BirdDriver } from '../../../agent/drivers/bird.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import type { BirdCapability } from '../../../core/capabilities.ts'
import { systemClock } from '../../../core/clock.ts'
import { RoutingConfig, type RoutingConfigInit } from '../../../proto/gen/routing.ts'
import { render } from '../../../services/routing/render.ts'

export const birdCommand = '/usr/sbin/bird'

/** Why the tests with a real BIRD cannot run here, or false. */
export const birdMissing: string | false = !existsSync(birdCommand)
  ? `no BIRD at ${birdCommand} (Debian package bird2)`
  : process.getuid?.() !== 0
    ? 'network namespaces need root'
    : false

/** One router: a namespace, directories, a driver with an engine of its own. */
export interface Router {
  readonly namespace: string
  readonly address: string
  readonly stateDir: string
  readonly runDir: string
  readonly logged: { level: string; fields: Record<string, unknown>; message: string }[]
  driver: BirdDriver
  engine: Engine
  bird: BirdCapability
  /** A new agent in place of the one before, which ends as if killed: nothing of it runs on but BIRD. */
  restartAgent(): Promise<void>
  /** Applies and confirms. */
  configure(config: RoutingConfigInit): Promise<void>
  /** Confirms over a connection that was opened just now. */
  confirm(changeId: string): Promise<void>
  birdPid(): number
}

export function text(config: RoutingConfigInit): { text: string; document: Uint8Array } {
  const document = RoutingConfig.encode(config)
  return { text: render(RoutingConfig.decode(document)), document }
}

export function applying(config: RoutingConfigInit, confirmTimeoutMs = 60_000): Parameters<BirdCapability['apply']>[0] {
  return { ...text(config), confirmTimeoutMs, comment: 'test', author: 'spiffe://lab/operator/test' }
}

/** Makes `count` routers on one bridge-less cable each: 10.9.N.1 and 10.9.N.2 for the pair. Call `close` whatever happens. */
export async function pair(): Promise<{ a: Router; b: Router; close(): Promise<void> }> {
  const directory = mkdtempSync(join(tmpdir(), 'obx-bird-'))
  const tag = `obxdrv${process.pid}`
  const names = [`${tag}a`, `${tag}b`] as const
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  const routers: Router[] = []
  const close = async () => {
    for (const { driver, engine } of routers) {
      engine.close()
      await driver.close({ stopBird: true })
    }
    for (const name of names) {
      try {
        ip('netns', 'del', name)
      } catch {
        // Never made, when the set-up failed half-way.
      }
    }
    rmSync(directory, { recursive: true, force: true })
  }
  try {
    for (const name of names) ip('netns', 'add', name)
    ip('link', 'add', 'eth0', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'eth0', 'netns', names[1])
    for (const [index, name] of names.entries()) {
      ip('-n', name, 'addr', 'add', `10.9.0.${index + 1}/24`, 'dev', 'eth0')
      for (const link of ['lo', 'eth0']) ip('-n', name, 'link', 'set', link, 'up')
      routers.push(await router(directory, name, `10.9.0.${index + 1}`))
    }
    const [a, b] = routers as [Router, Router]
    return { a, b, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function router(directory: string, namespace: string, address: string): Promise<Router> {
  const home = join(directory, namespace)
  const [stateDir, runDir, command] = [join(home, 'state'), join(home, 'run'), join(home, 'bird')]
  mkdirSync(stateDir, { recursive: true })
  writeFileSync(command, `#!/bin/sh\nexec ip netns exec ${namespace} ${birdCommand} "$@"\n`, { mode: 0o755 })
  const logged: Router['logged'] = []
  const record = (level: string) => (fields: object, message: string) => {
    logged.push({ level, fields: fields as Record<string, unknown>, message })
  }
  const log = { debug: record('debug'), info: record('info'), warn: record('warn'), error: record('error') }
  const start = async () => {
    const files = new AtomicFiles()
    const journal = new Journal(files, join(stateDir, 'changes'), (fields, message) => log.error(fields, message))
    const engine = new Engine({ journal, clock: systemClock, log })
    const driver = new BirdDriver({ command, stateDir, runDir, address, files, changes: engine, clock: systemClock, log })
    await driver.start()
    await engine.recover()
    const operations = driver.operations
    const bird = Object.fromEntries(Object.keys(operations).map((name) => [name, async (input?: unknown) => await operations[name]?.('routing', input)]))
    return { engine, driver, bird: bird as unknown as BirdCapability }
  }
  const self: Router = {
    namespace,
    address,
    stateDir,
    runDir,
    logged,
    ...(await start()),
    restartAgent: async () => {
      self.engine.close()
      await self.driver.close()
      Object.assign(self, await start())
    },
    configure: async (config) => await self.confirm((await self.bird.apply(applying(config))).changeId),
    confirm: async (changeId) => {
      await self.engine.confirm(changeId, { principal: 'test', connectionOpenedAtMs: systemClock.monotonicMs() + 1 })
    },
    birdPid: () => Number(execFileSync('cat', [join(runDir, 'bird.pid')], { encoding: 'utf8' })),
  }
  return self
}

/** Polls until `look` gives something true; fails with what was awaited after a generous time. */
export async function until<T>(what: string, look: () => Promise<T> | T, timeoutMs = 60_000): Promise<NonNullable<T>> {
  const deadlineMs = systemClock.monotonicMs() + timeoutMs
  for (;;) {
    const seen = await look()
    if (seen) return seen as NonNullable<T>
    if (systemClock.monotonicMs() > deadlineMs) throw new Error(`waited ${timeoutMs} ms for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
