/** Ours: a stateful service on a real agent, upgraded through its API as an operator does it. */
import { FLEET } from '../../test/agent/agent-process.ts'
import { agentUnderLoad } from '../agent-under-load.ts'
import { frame, Load } from '../load.ts'
import type { Peer } from './peer.ts'

const EMPTY = frame(new Uint8Array(0))

export async function offbox(): Promise<Peer> {
  const agent = await agentUnderLoad()
  try {
    await agent.bring('Install', '1.0.0')
    const identity = await agent.lab.identity('operator', 'bench')
    const load = await Load.open({ port: agent.port, serverName: `sw1.${FLEET}.offbox`, caPem: agent.lab.ca.certificatePem, identity })
    let swaps = 0
    return {
      name: 'offbox swap',
      protocol: 'gRPC, a count that is kept, HTTP/2 over mutual TLS',
      call: async () => {
        await load.call('/test.Counter/Next', EMPTY)
        return 'answered'
      },
      replace: async () => void (await agent.bring('Upgrade', swaps++ % 2 === 0 ? '1.1.0' : '1.0.0')),
      close: async () => {
        load.close()
        await agent.close()
      },
    }
  } catch (error) {
    await agent.close()
    throw error
  }
}
