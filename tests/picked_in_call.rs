//! The node is picked in the call, no lock is held over an await, and no runtime is needed around it.

use std::{future::Ready, sync::Arc, time::Duration};

use evenkeel::{
    AtResponse, Balance, Endpoint, Unsent,
    discovery::Registry,
    policy::{NoKey, Pick, PickContext, Picker, Policy, RoundRobin, Tier},
};
use tower::{Service, ServiceExt};

/// Answers with the name of its endpoint, which a request that was meant for another would betray.
#[derive(Clone)]
struct Server(String);

impl Service<()> for Server {
    type Response = String;
    type Error = std::io::Error;
    type Future = Ready<Result<String, std::io::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), std::io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(self.0.clone()))
    }
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(([10, 0, 0, last], 80))
}

/// T3: what was ready before the set changed is not what is called after.
#[tokio::test(start_paused = true)]
async fn t3_readiness_chooses_nothing() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::new();
    let mut balance: Balance<Server, NoKey, AtResponse> = Balance::builder(registry.clone())
        .policy(RoundRobin::new())
        .complete_at_response()
        .make(|endpoint: &Endpoint| Server(endpoint.to_string()))?;
    let mut listed = registry.register(endpoint(1))?;
    balance.ready().await?;
    for last in 2..50 {
        let ready = ServiceExt::<()>::ready(&mut balance).await?;
        let next = registry.register(endpoint(last))?;
        // The one that was there when it was ready goes.
        drop(std::mem::replace(&mut listed, next));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(ready.call(()).await?, endpoint(last).to_string());
    }
    Ok(())
}

/// T12: the futures of a call, of `ready()` and of the driver (which the runtime asks for) are
/// `Send`; a guard of std's locks is not, so none can be held over an await in them. Clippy's
/// `await_holding_lock` is denied besides.
#[tokio::test]
async fn t12_no_lock_is_held_over_an_await() -> Result<(), Box<dyn std::error::Error>> {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let balance = Balance::builder(Registry::new())
        .wait_for_endpoints(Duration::ZERO)
        .complete_at_response()
        .make(|endpoint: &Endpoint| Server(endpoint.to_string()))?;
    drop(is_send(balance.ready()));
    let error = is_send(balance.clone().oneshot(())).await.expect_err("nothing is listed");
    assert!(error.is_no_endpoint());
    Ok(())
}

/// A call may be polled outside the balancer's runtime, also where it waits or has a time-out.
#[test]
fn a_call_may_be_polled_outside_the_runtime() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let registry = Registry::new();
    let balance = {
        let _inside = runtime.enter();
        Balance::builder(registry.clone())
            .attempt_timeout(Duration::from_secs(30))
            .complete_at_response()
            .make(|endpoint: &Endpoint| Server(endpoint.to_string()))?
    };
    let waiting = std::thread::spawn({
        let balance = balance.clone();
        move || futures::executor::block_on(balance.oneshot(()))
    });
    while balance.status().waiting == 0 {
        std::thread::yield_now();
    }
    let _one = registry.register(endpoint(1))?;
    let answer = waiting.join().map_err(|_| "it panicked")??;
    assert_eq!(answer, endpoint(1).to_string());
    Ok(())
}

/// A picker that does not ask what it may use: the call fails after one try, and does not spin.
#[tokio::test(start_paused = true)]
async fn a_stubborn_picker_does_not_spin() -> Result<(), Box<dyn std::error::Error>> {
    #[derive(Clone)]
    struct Stubborn;
    impl Policy for Stubborn {
        fn build(&mut self, _: &Tier<'_>) -> Arc<dyn Picker> {
            Arc::new(Stubborn)
        }
    }
    impl Picker for Stubborn {
        fn pick(&self, _: &mut PickContext<'_>) -> Pick {
            Pick::Use(0)
        }
    }
    let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
        .policy(Stubborn)
        .complete_at_response()
        .make(|_: &Endpoint| {
            tower::service_fn(|request: u8| {
                std::future::ready(Err::<(), _>(Unsent::returned(request, "not here")))
            })
        })?;
    balance.ready().await?;
    let error = balance.clone().oneshot(7).await.expect_err("it is never sent");
    assert!(error.is_unprocessed(), "{error:?}");
    Ok(())
}
