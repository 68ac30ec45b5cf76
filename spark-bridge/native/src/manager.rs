//! Native methods of `org.sparkray.Native` for the RayManagers of driver and executors. Requests and answers
//! are messages of `bridge.proto`.

use jni::EnvUnowned;
use jni::objects::{JByteArray, JClass, JString};
use jni::sys::jlong;
use sparkray_common::{ClusterId, ErrorCode};
use sparkray_proto::bridge::{DriverConfig, ExecutorConfig, InitRequest, Invitation, StopResult};
use sparkray_supervisor::{DriverManager, ExecutorManager};

use crate::error::NativeError;
use crate::guard::{guard, text};
use crate::handles::Handles;
use crate::requests::{answer, message};

static DRIVERS: Handles<DriverManager> = Handles::new("driver manager");
static EXECUTORS: Handles<ExecutorManager> = Handles::new("executor manager");

/// The version of this library.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_version<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
) -> JString<'local> {
    guard(env, |env| Ok(env.new_string(sparkray_common::VERSION)?))
}

/// Sends warnings, or what `filter` says, to standard error.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_initLogging<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    filter: JString<'local>,
) {
    guard(env, |env| {
        sparkray_common::init_tracing(&text(env, &filter)?);
        Ok(())
    });
}

/// Starts the driver's manager, by its `DriverConfig`; returns its key.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverStart<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    config: JByteArray<'local>,
) -> jlong {
    guard(env, |env| {
        let config: DriverConfig = message(env, &config)?;
        Ok(DRIVERS.insert(DriverManager::start(config.try_into()?)?))
    })
}

/// What executors need in order to join: `Invitation`. May hold a token: for Spark's RPC only.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverInvitation<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
) -> JByteArray<'local> {
    guard(env, |env| {
        let invitation = Invitation::from(DRIVERS.get(driver)?.invitation());
        answer(env, &invitation)
    })
}

/// Starts a cluster; blocks until it is complete or has failed. `InitRequest` and `InitResult`.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverInit<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
    request: JByteArray<'local>,
) -> JByteArray<'local> {
    guard(env, |env| {
        let request: InitRequest = message(env, &request)?;
        let result = DRIVERS.get(driver)?.init(request.into())?;
        answer(env, &result)
    })
}

/// Stops the cluster of this id if it is the current one: `StopResult`.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverStopCluster<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
    cluster_id: JString<'local>,
) -> JByteArray<'local> {
    guard(env, |env| {
        let id = ClusterId::from_hex(&text(env, &cluster_id)?)
            .map_err(|error| NativeError::refused(ErrorCode::InvalidArgument, error.to_string()))?;
        let unanswered = DRIVERS.get(driver)?.stop_cluster(id);
        answer(env, &StopResult { unanswered })
    })
}

/// Spark has a new executor.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverExecutorAdded<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
    executor_id: JString<'local>,
    host: JString<'local>,
) {
    guard(env, |env| {
        let (executor_id, host) = (text(env, &executor_id)?, text(env, &host)?);
        DRIVERS.get(driver)?.executor_added(executor_id, host);
        Ok(())
    });
}

/// Spark has lost an executor.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverExecutorRemoved<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
    executor_id: JString<'local>,
) {
    guard(env, |env| {
        DRIVERS.get(driver)?.executor_removed(&text(env, &executor_id)?);
        Ok(())
    });
}

/// An executor said, over Spark, that it cannot run a manager.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverExecutorFailed<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
    executor_id: JString<'local>,
    reason: JString<'local>,
) {
    guard(env, |env| {
        let (executor_id, reason) = (text(env, &executor_id)?, text(env, &reason)?);
        DRIVERS.get(driver)?.executor_failed(executor_id, reason);
        Ok(())
    });
}

/// What the manager knows: `Status`.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverStatus<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
) -> JByteArray<'local> {
    guard(env, |env| answer(env, &DRIVERS.get(driver)?.status()))
}

/// Ends the driver's manager and its cluster; a second call does nothing.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_driverClose<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    driver: jlong,
) {
    guard(env, |_| {
        if let Some(manager) = DRIVERS.remove(driver) {
            manager.close();
        }
        Ok(())
    });
}

/// Starts an executor's manager, by its `ExecutorConfig`; returns its key.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_executorStart<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    config: JByteArray<'local>,
) -> jlong {
    guard(env, |env| {
        let config: ExecutorConfig = message(env, &config)?;
        Ok(EXECUTORS.insert(ExecutorManager::start(config.try_into()?)?))
    })
}

/// Ends an executor's manager and its children; a second call does nothing.
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_sparkray_Native_executorClose<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    executor: jlong,
) {
    guard(env, |_| {
        if let Some(manager) = EXECUTORS.remove(executor) {
            manager.close();
        }
        Ok(())
    });
}
